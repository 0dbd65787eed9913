"""Steps that take a gradient of the very loss that is read of them: judged by the same losses written row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select import BatchSelection, LossReweighting, SelectionReport
from lightning_select.errors import TrainingStepContractError
from lightning_select.scores.loss import Loss
from lightning_select.signals.scoring import StepRunner
from tests.fitting import First, fit, same, weights_of
from tests.modules import ROWS, Base, features
from tests.test_laws import CutByHand


class OfLoss(Base):
    """A penalty on the gradient of the loss by each row's input (R1); the loss is reduced inside of the kernel."""

    def mean(self, z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y)

    def training_step(self, batch, batch_idx):
        x = batch[0].clone().requires_grad_()
        loss = self.mean(self(x), batch[1])
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + 20 * g.square().sum(1).mean()

    def by_rows(self, batch: Any) -> tuple[Tensor, Any]:
        """The losses of the rows as a user would write them, and what belongs to no row."""
        x = batch[0].clone().requires_grad_()
        losses = F.cross_entropy(self(x), batch[1], reduction="none")
        (g,) = torch.autograd.grad(losses.mean(), x, create_graph=True)
        return losses + 20 * g.square().sum(1), 0.0


class OfMean(OfLoss):
    """The same, with the loss reduced by hand."""

    def mean(self, z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y, reduction="none").mean()


class OfWeights(OfMean):
    """A penalty on the gradient of the loss by the weights, which belongs to no row."""

    def training_step(self, batch, batch_idx):
        loss = self.mean(self(batch[0]), batch[1])
        return loss + sum(g.square().sum() for g in self.gradients(loss))

    def gradients(self, loss: Tensor) -> Any:
        return torch.autograd.grad(loss, list(self.parameters()), create_graph=True)

    def by_rows(self, batch: Any) -> tuple[Tensor, Any]:
        losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return losses, sum(g.square().sum() for g in self.gradients(losses.mean()))


class Adaptive(Base):
    """Two losses brought to the same strength at the last layer, as in VQGAN."""

    def factor(self, loss: Tensor, other: Tensor) -> Tensor:
        last = self.net[2].weight
        (a,) = torch.autograd.grad(loss, last, retain_graph=True)
        (b,) = torch.autograd.grad(other, last, retain_graph=True)
        return (a.norm() / (b.norm() + 1e-4)).clamp(0, 1e4).detach()

    def training_step(self, batch, batch_idx):
        z = self(batch[0])
        loss, other = F.cross_entropy(z, batch[1]), z.square().mean()
        return loss + self.factor(loss, other) * other

    def by_rows(self, batch: Any) -> tuple[Tensor, Any]:
        z = self(batch[0])
        losses, others = F.cross_entropy(z, batch[1], reduction="none"), z.square().mean(1)
        return losses + self.factor(losses.mean(), others.mean()) * others, 0.0


class Functional(OfLoss):
    """The first again, by torch.func, which changes a buffer and a tensor of the batch on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def training_step(self, batch, batch_idx):
        def loss(x: Tensor, count: Tensor, shifted: Tensor) -> Tensor:
            count.add_(1)
            shifted.mul_(2)
            return F.cross_entropy(self(x), batch[1])

        g = torch.func.grad(loss)(batch[0].clone(), self.count, batch[0])
        return F.cross_entropy(self(batch[0] / 2), batch[1]) + 20 * g.square().sum(1).mean()


READ = [OfLoss, OfMean, OfWeights, Adaptive, Functional]
WEIGHED = [OfMean, OfWeights, Adaptive, Functional]


@pytest.mark.parametrize("kind", READ)
def test_row_losses_are_those_of_the_rows(kind: Any) -> None:
    torch.manual_seed(0)
    module = kind()
    expected = module.by_rows(features())[0].detach()
    runner = StepRunner(module, None, module.training_step)
    for _ in range(2):
        torch.testing.assert_close(runner.measure(features(), {"loss"}).loss, expected)


@pytest.mark.parametrize("kind", WEIGHED)
def test_weighted_gradients_are_those_of_weighted_rows(kind: Any) -> None:
    weights = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 1.0, 0.3, 1.7])

    class Weighted(kind):
        def training_step(self, batch, batch_idx):
            losses, rest = self.by_rows(batch)
            return (weights * losses).mean() + rest

    batches = torch.utils.data.DataLoader([features() for _ in range(2)], batch_size=None)
    expected = weights_of(fit(Weighted, data=batches, max_epochs=1))
    batches = torch.utils.data.DataLoader([features() for _ in range(2)], batch_size=None)
    ours = weights_of(fit(kind, LossReweighting(lambda losses: weights), data=batches, max_epochs=1))
    for name, value in expected.items():
        if name != "count":
            torch.testing.assert_close(ours[name], value)


@pytest.mark.parametrize("kind", WEIGHED)
def test_law_1(kind: Any) -> None:
    assert same(weights_of(fit(kind)), weights_of(fit(kind, LossReweighting(torch.ones_like))))


@pytest.mark.parametrize("kind", READ)
def test_selection_and_report_train_like_no_callback(kind: Any, tmp_path: Any) -> None:
    by_hand = weights_of(fit(kind, CutByHand(4)))
    assert same(by_hand, weights_of(fit(kind, BatchSelection(Loss(), First(), keep=4))))
    report = SelectionReport()
    assert same(weights_of(fit(kind)), weights_of(fit(kind, report, default_root_dir=tmp_path)))


class Squares(Base):
    """A loss of numbers; its gradient depends on them, so that a weight would act on it twice."""

    def training_step(self, batch, batch_idx):
        x = batch[0].clone().requires_grad_()
        z = self(x)
        loss = F.mse_loss(z, torch.zeros_like(z))
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + g.square().sum(1).mean()


@pytest.mark.parametrize("kind", [OfLoss, Squares])
def test_weights_that_would_act_on_a_gradient_twice_are_refused(kind: Any) -> None:
    module = kind()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(TrainingStepContractError, match=r"create_graph=True .* got F\.\w+\. .*reduction='none'"):
        fit(module, LossReweighting(lambda losses: torch.arange(float(ROWS))))
    assert same(before, dict(module.state_dict()))


class Lazy(Base):
    """Takes a gradient now and then, and does not complain where there is none."""

    due = False

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        if not self.due:
            return loss * 2
        found = torch.autograd.grad(loss, list(self.parameters()), retain_graph=True, allow_unused=True)
        return loss * (2 + sum(g.square().sum() for g in found if g is not None))


def test_a_gradient_that_is_taken_later_is_not_lost_without_a_word() -> None:
    module = Lazy()
    runner = StepRunner(module, None, module.training_step)
    runner.measure(features(), {"loss"})
    module.due = True
    x, y = features()
    losses = F.cross_entropy(module(x), y, reduction="none")
    norm = sum(g.square().sum() for g in torch.autograd.grad(losses.mean(), module.parameters(), retain_graph=True))
    torch.testing.assert_close(runner.measure(features(), {"loss"}).loss, (losses * (2 + norm)).detach())
