"""Steps that take a gradient themselves are read like any other, and leave none behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_select import BatchSelection, LossReweighting
from lightning_select.errors import TrainingStepContractError
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.scoring import StepRunner
from lightning_select.signals.traceless.gradients import GradientKeeper
from tests.fitting import First, fit, same, weights_of
from tests.modules import Base, Classifier, features
from tests.test_laws import CutByHand


class Penalised(Base):
    """The norm of each row's gradient, as in WGAN-GP and physics-informed networks; in place on the batch."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        x.requires_grad_()
        z = self(x)
        (g,) = torch.autograd.grad(z.sum(), x, create_graph=True)
        return F.cross_entropy(z, y) + 0.3 * (g.norm(dim=1) - 1).square().mean()


class Adversarial(Base):
    """Virtual adversarial training: one step uphill, and the divergence there."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self(x)
        d = (1e-2 * torch.ones_like(x)).requires_grad_()
        target = z.detach().softmax(-1)
        (g,) = torch.autograd.grad(F.kl_div(self(x + d).log_softmax(-1), target, reduction="batchmean"), d)
        return F.cross_entropy(z, y) + F.kl_div(
            self(x + F.normalize(g, dim=1)).log_softmax(-1), target, reduction="batchmean"
        )


class Accumulating(Base):
    """Calls backward() itself beside the automatic optimisation."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self(x)
        self.net[0].bias.square().sum().backward()
        return F.cross_entropy(z, y)


class Freezing(Base):
    """Switches parameters off and leaves them off."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.net[0].requires_grad_(False)
        return F.cross_entropy(self(x), y)


def rows_alone(module: Base, batch: Any) -> Tensor:
    x, y = batch
    return torch.stack([module.training_step((x[r : r + 1].clone(), y[r : r + 1]), 0) for r in range(len(x))])


@pytest.mark.parametrize("kind", [Penalised, Adversarial])
def test_row_losses(kind: type[Base]) -> None:
    module = kind()
    expected = rows_alone(module, features()).detach()
    runner = StepRunner(module, None, module.training_step)
    for _ in range(2):
        torch.testing.assert_close(runner.measure(features(), {"loss"}).loss, expected)


@pytest.mark.parametrize("kind", [Penalised, Adversarial])
def test_weighted_gradients_are_those_of_a_loop_over_the_rows(kind: type[Base]) -> None:
    weights = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 1.0, 0.3, 1.7])

    class Weighted(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch, batch_idx):
            x, y = batch
            one = super().training_step
            return (weights * torch.stack([one((x[r : r + 1].clone(), y[r : r + 1]), 0) for r in range(8)])).mean()

    data = torch.utils.data.DataLoader([features()], batch_size=None)
    expected = weights_of(fit(Weighted, data=data, max_epochs=1))
    ours = weights_of(fit(kind, LossReweighting(lambda losses: weights), data=data, max_epochs=1))
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value)


@pytest.mark.parametrize("kind", [Penalised, Adversarial, Accumulating, Freezing])
def test_law_1(kind: type[Base]) -> None:
    plain = weights_of(fit(kind))
    assert same(plain, weights_of(fit(kind, LossReweighting(torch.ones_like))))
    by_hand = weights_of(fit(kind, CutByHand(4)))
    assert same(by_hand, weights_of(fit(kind, BatchSelection(Loss(), First(), keep=4))))
    both = fit(kind, LossReweighting(torch.ones_like), BatchSelection(Loss(), TopK(), keep=1.0))
    assert same(plain, weights_of(both))


@pytest.mark.parametrize("kind", [Penalised, Adversarial, Accumulating, Freezing])
def test_nothing_is_left_behind(kind: type[Base]) -> None:
    module, batch = kind(), features()
    gradients = [torch.randn_like(parameter) for parameter in module.parameters()]
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = gradient
    values = [gradient.clone() for gradient in gradients]
    runner = StepRunner(module, None, module.training_step)
    for _ in range(3):
        signals = runner.measure(batch, {"loss", "logits", "hidden"})
        assert not any(value.requires_grad for value in (signals.loss, signals.logits, signals.hidden))
        assert not any(tensor.requires_grad for tensor in batch)
        assert batch[0].grad is None
        assert all(parameter.requires_grad for parameter in module.parameters())
        for parameter, gradient, value in zip(module.parameters(), gradients, values, strict=True):
            assert parameter.grad is gradient
            assert torch.equal(gradient, value)


def test_gradients_that_a_step_adds_itself_are_said_once_to_stay_unweighted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for module in (Accumulating(), Classifier()):
        runner = StepRunner(module, None, module.training_step)
        for _ in range(2):
            runner.probe(features())
    said = [record.message for record in caplog.records if "unweighted" in record.message]
    assert said == [
        "Accumulating.training_step adds gradients by a backward() of its own. "
        "They count for no row and stay unweighted."
    ]


def test_no_graph_is_kept() -> None:
    module = Penalised()
    runner = StepRunner(module, None, module.training_step)
    freed: list[bool] = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.held = Held()
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    class Held:
        def __del__(self) -> None:
            freed.append(True)

    original = module.net
    module.forward = lambda x: Watch.apply(original(x))  # type: ignore[method-assign]
    runner.measure(features(), {"loss"})
    runs = len(freed)
    runner.measure(features(), {"loss"})
    assert runs > 3
    assert len(freed) == runs + 1


def test_a_step_without_a_gradient_of_its_own_is_run_without_a_graph() -> None:
    seen: list[bool] = []

    class Plain(Base):
        def training_step(self, batch, batch_idx):
            seen.append(torch.is_grad_enabled())
            return F.cross_entropy(self(batch[0]), batch[1])

    module = Plain()
    runner = StepRunner(module, None, module.training_step)
    runner.measure(features(), {"loss"})
    assert seen == [True, False, False, False]


def test_other_errors_pass_through() -> None:
    class Broken(Base):
        def training_step(self, batch, batch_idx):
            if not torch.is_grad_enabled():
                raise RuntimeError("the grader is out of order")
            return F.cross_entropy(self(batch[0]), batch[1]) * torch.zeros(3).reshape(2)

    module = Broken()
    runner = StepRunner(module, None, module.training_step)
    with pytest.raises(RuntimeError, match="invalid for input of size 3|out of order"):
        runner.measure(features(), {"loss"})


def test_parameters_are_left_alone_once_it_is_known_that_a_step_leaves_them_alone() -> None:
    class Counting(nn.Linear):
        asked = 0

        def parameters(self, recurse: bool = True):
            Counting.asked += 1
            return super().parameters(recurse)

    keeper = GradientKeeper(Counting(2, 2))
    for _ in range(3):
        with keeper.kept([], grad=False):
            pass
    assert Counting.asked == 1
    with keeper.kept([], grad=True):
        pass
    assert Counting.asked == 2


class Kernel(torch.autograd.Function):
    """A fused cross entropy in Python, as those of Liger and others: the mean is taken inside of it."""

    @staticmethod
    def forward(ctx, logits, target):
        p = logits.softmax(1)
        ctx.save_for_backward((p - F.one_hot(target, p.shape[1])) / len(p))
        return (-p.gather(1, target[:, None]).log()).mean()

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad, None


class Whole(Base):
    def training_step(self, batch, batch_idx):
        return Kernel.apply(self(batch[0]), batch[1])


class Inside(Base):
    """A loss of torch inside of the kernel."""

    def training_step(self, batch, batch_idx):
        class Wrapped(torch.autograd.Function):
            @staticmethod
            def forward(ctx, logits, target):
                with torch.enable_grad():
                    inner = logits.detach().requires_grad_()
                    loss = F.cross_entropy(inner, target)
                (ctx.gradient,) = torch.autograd.grad(loss, inner)
                return loss.detach()

            @staticmethod
            def backward(ctx, grad):
                return ctx.gradient * grad, None

        return Wrapped.apply(self(batch[0]), batch[1])


class Half(Base):
    def training_step(self, batch, batch_idx):
        return 0.5 * Kernel.apply(self(batch[0]), batch[1]) + 0.1 * self(batch[0]).square().mean()


@pytest.mark.parametrize("kind", [Whole, Inside, Half])
@pytest.mark.parametrize(
    "callback", [lambda: LossReweighting(torch.ones_like), lambda: BatchSelection(Loss(), TopK(), keep=4)]
)
def test_a_reduction_inside_of_a_kernel_is_none(kind: type[Base], callback: Any) -> None:
    with pytest.raises(TrainingStepContractError, match="fused kernel"):
        fit(kind, callback())
    if kind is Whole:
        with pytest.raises(TrainingStepContractError, match="fused kernel"):
            fit(torch.compile(kind(), backend="aot_eager"), callback())


class Freezing(Base):
    """Freezes a layer in each step, and now and then takes a gradient of it before."""

    late = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        frozen = list(self.net[0].parameters())
        if self.late:
            with torch.enable_grad():
                self(x).square().mean().backward()
        for weight in frozen:
            weight.requires_grad_(False)
        return F.cross_entropy(self(x), y)


def test_a_step_that_freezes_weights_goes_on_being_watched() -> None:
    """Only one that leaves all weights alone may be trusted to do so."""
    module = Freezing()
    module.log = lambda *args, **kwargs: None
    runner = StepRunner(module, None, module.training_step)
    for _ in range(3):
        runner.measure(features(), {"loss"})
    Freezing.late = True
    try:
        runner.measure(features(), {"loss"})
    finally:
        Freezing.late = False
    assert [weight.grad for weight in module.parameters()] == [None] * 4
    assert all(weight.requires_grad for weight in module.parameters())


class Swapping(Base):
    """Gives a weight whole numbers, once it is frozen."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        weight = self.net[0].weight
        loss = F.cross_entropy(self(x), y)
        weight.requires_grad_(False)
        weight.data = (weight.data * 100).to(torch.int8)
        return loss


def test_a_frozen_weight_of_whole_numbers_is_trained_again() -> None:
    module = Swapping()
    module.log = lambda *args, **kwargs: None
    runner = StepRunner(module, None, module.training_step)
    for _ in range(3):
        runner.measure(features(), {"loss"})
    assert module.net[0].weight.dtype == torch.float32
    assert module.net[0].weight.requires_grad
