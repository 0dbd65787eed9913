"""Steps whose reductions stay the same, and whose loss is made of others of them than before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_select import BatchSelection, LossReweighting
from lightning_select.selectors.top_k import TopK
from tests.fitting import fit
from tests.modules import CLASSES, FEATURES, Base

STEPS, CHANGE = 6, 3
WEIGHTS = torch.linspace(0.2, 1.8, 8)


class Changing(Base):
    """Computes two losses in every step, and is not always trained on both."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(FEATURES, CLASSES)
        self.batches: list[Any] = []
        self.gradients: list[list[Tensor | None]] = []

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        self.batches.append(batch)
        return batch

    def counts(self, step: int) -> tuple[bool, bool]:
        """Is each of the losses trained on?"""
        raise NotImplementedError

    def rows(self, batch: Any, step: int) -> Tensor:
        """The loss of each row, by hand."""
        first = F.cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        wanted = F.one_hot(batch[1], CLASSES).float()
        second = (self.second(batch[0]) - wanted).square().mean(dim=1)
        parts = [loss for loss, counts in zip((first, 3 * second), self.counts(step), strict=True) if counts]
        return torch.stack(parts).sum(dim=0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        first = F.cross_entropy(self.net(batch[0]), batch[1])
        second = F.mse_loss(self.second(batch[0]), F.one_hot(batch[1], CLASSES).float())
        self.log("second", second)
        one, other = self.counts(self.global_step)
        return (first if one else 0) + (3 * second if other else 0)

    def on_after_backward(self) -> None:
        self.gradients.append([None if p.grad is None else p.grad.clone() for p in self.parameters()])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Joins(Changing):
    def counts(self, step: int) -> tuple[bool, bool]:
        return True, step >= CHANGE


class Leaves(Changing):
    def counts(self, step: int) -> tuple[bool, bool]:
        return True, step < CHANGE


class Replaces(Changing):
    def counts(self, step: int) -> tuple[bool, bool]:
        return step < CHANGE, step >= CHANGE


class Alternates(Changing):
    def counts(self, step: int) -> tuple[bool, bool]:
        return step % 2 == 0, True


class Thaws(Joins):
    """The second loss is added from the start, and means something from when its weights are trained."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        first = F.cross_entropy(self.net(batch[0]), batch[1])
        return first + 3 * F.mse_loss(self.second(batch[0]), F.one_hot(batch[1], CLASSES).float())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.second.requires_grad_(batch_idx + 1 >= CHANGE)

    def on_fit_start(self) -> None:
        self.second.requires_grad_(False)


class Rarely(Changing):
    """Adds the second loss where some number of the batch is large, which two rows of it need not show."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        first = F.cross_entropy(self.net(batch[0]), batch[1])
        second = F.mse_loss(self.second(batch[0]), F.one_hot(batch[1], CLASSES).float())
        return first + 3 * second if self.large(batch) else first

    def large(self, batch: Any) -> bool:
        return len(batch[0]) > 2 and bool(batch[0].abs().max() > 1.5)

    def rows(self, batch: Any, step: int) -> Tensor:
        wanted = F.one_hot(batch[1], CLASSES).float()
        first = F.cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        second = (self.second(batch[0]) - wanted).square().mean(dim=1)
        return first + 3 * second if self.large(batch) else first


EVERY = pytest.mark.parametrize("kind", [Joins, Leaves, Replaces, Alternates, Thaws, Rarely])


@EVERY
def test_scores_see_the_losses_that_are_trained_on(kind: type[Changing]) -> None:
    seen: list[Tensor] = []

    def score(signals: Any) -> Tensor:
        seen.append(signals.loss)
        return signals.loss

    module = kind()
    fit(module, BatchSelection(score, TopK(), keep=4), max_steps=STEPS)
    assert len(seen) == STEPS
    for step, (found, batch) in enumerate(zip(seen, module.batches, strict=False)):
        torch.testing.assert_close(found, module.rows(batch, step).detach())


@EVERY
def test_weights_act_on_the_losses_that_are_trained_on(kind: type[Changing]) -> None:
    seen: list[Tensor] = []

    def weighting(losses: Tensor) -> Tensor:
        seen.append(losses)
        return WEIGHTS

    module = kind()
    fit(module, LossReweighting(weighting), max_steps=STEPS)
    for step, (found, batch) in enumerate(zip(seen, module.batches, strict=False)):
        losses = module.rows(batch, step)
        torch.testing.assert_close(found, losses.detach())
        parameters = [p for p in module.parameters() if p.requires_grad]
        expected = torch.autograd.grad((losses * WEIGHTS).mean(), parameters, allow_unused=True)
        for mine, theirs in zip(module.gradients[step], expected, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.allclose(mine, theirs, atol=1e-6)


def test_each_kind_of_step_is_probed_once() -> None:
    calls: list[int] = []

    class Counts(Alternates):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            calls.append(batch_idx)
            return super().training_step(batch, batch_idx)

    fit(Counts, BatchSelection(lambda signals: signals.loss, TopK(), keep=4), max_steps=STEPS)
    assert calls.count(0) > 2  # a probe runs the step a few times
    assert calls.count(1) > 2
    # To score as the step before, to score as what it is, and to train.
    assert [calls.count(step) for step in range(2, STEPS)] == [3] * (STEPS - 2)


@pytest.mark.parametrize("weighs", [True, False])
def test_a_batch_that_does_not_show_its_rows_has_nobody_probe_for_ever(weighs: bool) -> None:
    """The last batch of an epoch, of one row, whose loss has a term more than all others."""
    calls: list[int] = []

    class Tokens(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            calls.append(batch_idx)
            predicted, wanted = self(batch[0]).flatten(), batch[0][:, :CLASSES].flatten()
            first, second = F.mse_loss(predicted, wanted), F.l1_loss(predicted, wanted + 1)
            return first + second if len(batch[0]) == 1 else first

    data = TensorDataset(torch.randn(41, FEATURES), torch.randint(CLASSES, (41,)))
    ours = LossReweighting(torch.ones_like) if weighs else BatchSelection(lambda one: one.loss, TopK(), keep=0.5)
    fit(Tokens, ours, data=DataLoader(data, 8), max_epochs=3)
    assert [calls.count(place) for place in range(1, 5)] == [3 if weighs else 6] * 4


def test_a_term_that_joins_where_rows_are_all_alike_is_found_in_the_next_batch() -> None:
    seen: list[Tensor] = []
    wanted: list[Tensor] = []

    class Tokens(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            predicted, target = self(batch[0]), batch[0][:, :CLASSES]
            first = F.mse_loss(predicted.flatten(), target.flatten())
            second = F.l1_loss(predicted.flatten(), target.flatten() + 1)
            return first + second if self.global_step >= 3 else first

        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            with torch.no_grad():
                errors = self(batch[0]) - batch[0][:, :CLASSES]
                both = errors.square().mean(dim=1), (errors - 1).abs().mean(dim=1)
            wanted.append(both[0] + (both[1] if self.global_step >= 3 else 0))
            return batch

    def score(signals: Any) -> Tensor:
        seen.append(signals.loss)
        return signals.loss

    inputs = torch.randn(48, FEATURES)
    inputs[24:32] = inputs[24]
    data = TensorDataset(inputs, torch.zeros(48, dtype=torch.int64))
    fit(Tokens, BatchSelection(score, TopK(), keep=4), data=DataLoader(data, 8), max_epochs=1)
    torch.testing.assert_close(seen, wanted)
