"""What the first batch does not show must be asked of a later one, never guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting
from lightning_select.types import Selection
from tests.fitting import fit, same, weights_of
from tests.modules import CLASSES, FEATURES, Base

ROWS = 8


def fixed(losses: Tensor) -> Tensor:
    weights = 0.2 + torch.arange(losses.shape[0], dtype=torch.float32) ** 1.3 % 2.7
    return weights / weights.mean()


class ByHandToo(Base):
    """A step whose terms may be weighted by hand: ``rows`` says which row each term belongs to."""

    by_hand = False
    zero_head = False

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        if self.zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def reduce(self, logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        if not self.by_hand:
            return F.cross_entropy(logits, targets)
        weights = fixed(torch.zeros(int(rows.max()) + 1))
        return (weights[rows] * F.cross_entropy(logits, targets, reduction="none")).mean()


class TwoViews(ByHandToo):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.reduce(self.head(torch.cat([x, x.flip(1)])), y.repeat(2), torch.arange(len(y)).repeat(2))


class TimeMajor(ByHandToo):
    """From ``(rows, steps, features)`` to terms in the order of the steps."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        rows = torch.arange(len(y)).repeat(x.shape[1])
        targets = y[:, None].expand(-1, x.shape[1]).t().reshape(-1)
        return self.reduce(self.head(x.transpose(0, 1)).reshape(-1, CLASSES), targets, rows)


class TakingApart(TwoViews):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch.pop("x"), batch.pop("y")), batch_idx)


def batch(seed: int, rows: int = ROWS, steps: int | None = None) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shape = (rows, FEATURES) if steps is None else (rows, steps, FEATURES)
    return torch.randn(shape, generator=draw), torch.randint(CLASSES, (rows,), generator=draw)


def alike(seed: int) -> tuple[Tensor, Tensor]:
    x, y = batch(seed)
    return x[:1].expand(ROWS, -1).clone(), y[:1].expand(ROWS).clone()


def assert_as_by_hand(kind: type[ByHandToo], batches: list[Any]) -> None:
    class ByHand(kind):
        by_hand = True

    data = DataLoader(batches, batch_size=None)
    ours = weights_of(fit(kind, LossReweighting(fixed), data=data))
    for key, value in weights_of(fit(ByHand, data=data)).items():
        torch.testing.assert_close(ours[key], value)
    assert not same(ours, weights_of(fit(kind, data=data)))


@pytest.mark.parametrize(("kind", "steps"), [(TwoViews, None), (TimeMajor, 3)])
def test_a_head_that_starts_from_zero(kind: type[ByHandToo], steps: int | None) -> None:
    class FromZero(kind):
        zero_head = True

    assert_as_by_hand(FromZero, [batch(seed, steps=steps) for seed in range(3)])


def test_a_first_batch_of_one_row() -> None:
    assert_as_by_hand(TwoViews, [batch(0, rows=1), batch(1), batch(2)])


def test_sequences_of_one_step_first() -> None:
    assert_as_by_hand(TimeMajor, [batch(0, steps=1), batch(1, steps=3), batch(2, steps=1), batch(3, steps=2)])


def test_a_step_that_takes_its_batch_apart_can_be_asked_again() -> None:
    batches = [dict(zip("xy", batch(seed, rows=rows), strict=True)) for seed, rows in ((0, 1), (1, 8), (2, 8))]

    class ByHand(TakingApart):
        by_hand = True

    ours = fit(TakingApart, LossReweighting(fixed), data=DataLoader(batches, batch_size=None), max_epochs=1)
    batches = [dict(zip("xy", batch(seed, rows=rows), strict=True)) for seed, rows in ((0, 1), (1, 8), (2, 8))]
    theirs = fit(ByHand, data=DataLoader(batches, batch_size=None), max_epochs=1)
    for key, value in weights_of(theirs).items():
        torch.testing.assert_close(weights_of(ours)[key], value)


def test_rows_that_are_all_alike_train_unweighted_and_the_next_batch_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    data = [alike(0), alike(1), batch(1), batch(2)]

    class ByHandAfterTheFirst(TwoViews):
        def training_step(self, batch, batch_idx):
            self.by_hand = batch_idx > 1
            return super().training_step(batch, batch_idx)

    with caplog.at_level("INFO"):
        ours = fit(TwoViews, LossReweighting(fixed), data=DataLoader(data, batch_size=None), max_epochs=1)
    assert caplog.text.count("the rows of this batch do not tell which losses are theirs") == 1
    theirs = fit(ByHandAfterTheFirst, data=DataLoader(data, batch_size=None), max_epochs=1)
    for key, value in weights_of(theirs).items():
        torch.testing.assert_close(weights_of(ours)[key], value)


@pytest.mark.parametrize("first", [batch(0), alike(0)])
def test_selection_scores_the_rows_that_are_there(first: tuple[Tensor, Tensor]) -> None:
    found: list[Tensor] = []
    expected: list[Tensor] = []

    class Spy:
        needs = frozenset({"loss"})
        with_replacement = False

        def __call__(self, scores, count, context):
            found.append(context.signals.loss)
            return Selection(torch.arange(count))

    class FromZero(TwoViews):
        zero_head = True

        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx < 2:  # the model that scores the next candidates is the one that has just made its step
                x, y = later[batch_idx]
                views = [F.cross_entropy(self.head(view), y, reduction="none").detach() for view in (x, x.flip(1))]
                expected.append((views[0] + views[1]) / 2)

    later = [batch(seed) for seed in (1, 2)]
    data = DataLoader([first, *later], batch_size=None)
    fit(FromZero, BatchSelection(lambda signals: signals.loss, Spy(), keep=0.5), data=data, max_epochs=1)
    for one, other in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(one, other)


def test_means_of_some_rows_in_a_loop_are_not_taken_for_rows() -> None:
    class InALoop(ByHandToo):
        def training_step(self, batch, batch_idx):
            x, y, lengths = batch
            losses = F.cross_entropy(self.head(x).flatten(0, 1), y.flatten(), reduction="none").reshape(y.shape)
            rows = torch.stack([row[:length].mean() for row, length in zip(losses, lengths.tolist(), strict=True)])
            return ((fixed(rows) if self.by_hand else 1.0) * rows).mean()

    draw = torch.Generator().manual_seed(0)
    data = [
        (
            torch.randn(4, 5, FEATURES, generator=draw),
            torch.randint(CLASSES, (4, 5), generator=draw),
            torch.tensor(lengths),
        )
        for lengths in ([4, 2, 5, 1], [3, 4, 4, 2])
    ]
    assert_as_by_hand(InALoop, data)
