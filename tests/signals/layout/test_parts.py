"""Steps whose losses are of parts of the batch: no weight may act on a row of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select import LossReweighting, SelectionReport
from lightning_select.errors import TrainingStepContractError
from tests.fitting import fit, loader, weights_of
from tests.modules import CLASSES, Base, features
from tests.samplers.toy import ByLastLoss

ROWS, SIZE = 24, 8


def shaken(self: Base, x: Tensor) -> Tensor:
    return F.mse_loss(self(x), self(x + 0.1).detach())


def chunks(self, x, y):
    return sum(F.cross_entropy(self(a), b) for a, b in zip(x.chunk(2), y.chunk(2), strict=True)) / 2


def quarters(self, x, y):
    return sum(F.cross_entropy(self(a), b) for a, b in zip(x.chunk(4), y.chunk(4), strict=False)) / 4


def halves(self, x, y):
    half = len(x) // 2
    return F.cross_entropy(self(x[:half]), y[:half]) + 0.5 * shaken(self, x[half:])


def twice_and_once(self, x, y):
    half = len(x) // 2
    return F.cross_entropy(self(x[:half]), y[:half]) + 0.1 * shaken(self, x[:half]) + shaken(self, x[half:])


def masks(self, x, y):
    known = y % 2 == 0
    return F.cross_entropy(self(x[known]), y[known]) + shaken(self, x[~known])


def masks_that_leave_some_out(self, x, y):
    z = self(x)
    return F.cross_entropy(z[y == 0], y[y == 0]) + F.multi_margin_loss(z[y == 1], y[y == 1])


def same_mask(self, x, y):
    z, known = self(x), y % 2 == 0
    return F.cross_entropy(z[known], y[known]) + F.multi_margin_loss(z[known], y[known])


def triplets(self, x, y):
    a, b, c = self(x[: len(x) // 4 * 3]).chunk(3)
    return F.triplet_margin_loss(a, b, c) + 0.1 * F.mse_loss(a, b)


def terms_of_pairs(self, x, y):
    a, b = self(x[::2]), self(x[1::2])
    return (F.mse_loss(a, b, reduction="none").mean(dim=1) - F.cosine_similarity(a, b)).mean()


def joined(self, x, y):
    parts = [F.cross_entropy(self(a), b, reduction="none") for a, b in zip(x.chunk(2), y.chunk(2), strict=True)]
    return torch.cat(parts).mean()


def module(step: Any) -> type[Base]:
    class Module(Base):
        def training_step(self, batch, batch_idx):
            return step(self, *batch)

    return Module


def alternating(rows: int) -> tuple[Tensor, Tensor]:
    """As many rows of each class in every batch."""
    return features(rows=rows)[0], torch.arange(rows) % CLASSES


def run(step: Any, *callbacks: Any, **kwargs: Any) -> Any:
    data = loader(alternating, rows=ROWS, size=SIZE, shuffle=False, **kwargs)
    return fit(module(step), *callbacks, data=data, max_epochs=1)


@pytest.mark.parametrize("step", [chunks, halves, twice_and_once, masks, masks_that_leave_some_out])
def test_losses_of_parts_of_the_batch_get_no_weights(step: Any) -> None:
    with pytest.raises(TrainingStepContractError, match=r"\d losses of \d rows each for 8 rows.*torch.cat"):
        run(step, LossReweighting(torch.ones_like))


def test_losses_of_more_parts_than_a_small_batch_has_get_no_weights() -> None:
    with pytest.raises(TrainingStepContractError, match="8 rows in the batch and loss terms of the shapes"):
        run(quarters, LossReweighting(torch.ones_like))


@pytest.mark.parametrize("step", [same_mask, triplets, terms_of_pairs])
def test_losses_of_the_same_rows_are_weighted(step: Any) -> None:
    """A weight that all rows share is a factor of the loss."""

    def thrice(losses: Tensor) -> Tensor:
        return torch.full_like(losses, 3.0)

    thrice.normalised = True  # type: ignore[attr-defined]
    ours = weights_of(run(step, LossReweighting(thrice)))
    factored = weights_of(run(lambda *given: 3.0 * step(*given)))
    for name, value in ours.items():
        torch.testing.assert_close(value, factored[name])


def test_losses_that_are_joined_are_those_of_the_rows() -> None:
    seen: list[Tensor] = []

    def first(losses: Tensor) -> Tensor:
        seen.append(losses)
        return torch.arange(SIZE).float()

    def by_hand(self, x, y):
        return (F.cross_entropy(self(x), y, reduction="none") * torch.arange(SIZE) / torch.arange(SIZE).sum()).sum()

    ours, theirs = weights_of(run(joined, LossReweighting(first))), weights_of(run(by_hand))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])
    torch.manual_seed(1)
    x, y = alternating(ROWS)
    torch.testing.assert_close(seen[0], F.cross_entropy(Base()(x[:SIZE]), y[:SIZE], reduction="none").detach())


def test_losses_of_the_same_rows_that_part_later_get_no_weights() -> None:
    def step(self, x, y):
        z, some, others = self(x), x[:, 0] > 0, x[:, 1] > 0
        return F.cross_entropy(z[some], y[some]) + F.multi_margin_loss(z[others], y[others])

    def agreeing_at_first(rows: int) -> tuple[Tensor, Tensor]:
        x, y = features(rows=rows)
        x[:SIZE, :2] = torch.tensor([1.0, -1.0]).repeat(SIZE // 2)[:, None]
        x[SIZE:, 0], x[SIZE:, 1] = torch.arange(ROWS - SIZE) % 4 - 1.0, -1.0
        x[SIZE::SIZE, 1] = 1.0
        return x, y

    data = loader(agreeing_at_first, rows=ROWS, size=SIZE, shuffle=False)
    with pytest.raises(TrainingStepContractError, match=r"8 rows in the batch and loss terms of the shapes"):
        fit(module(step), LossReweighting(torch.ones_like), data=data, max_epochs=1)


@pytest.mark.parametrize("margins", [True, False])
@pytest.mark.parametrize("weighed", [True, False])
def test_a_report_says_that_losses_are_of_other_rows(margins: bool, weighed: bool, tmp_path: Path) -> None:
    report = SelectionReport(folder=tmp_path, margins=margins)
    plain = weights_of(run(triplets))
    done = run(triplets, *([LossReweighting(torch.ones_like)] if weighed else []), report)
    for name, value in weights_of(done).items():
        torch.testing.assert_close(value, plain[name])
    assert any("could not be read" in notice and "own making" in notice for notice in report.notices)
    assert report.noting is not None
    assert not np.isfinite(report.noting.snapshots.timeline().loss).any()


def test_a_sampler_does_not_take_them_for_losses_of_rows() -> None:
    for callbacks in ([], [LossReweighting(torch.ones_like)]):
        with pytest.raises(TrainingStepContractError, match="own making"):
            run(triplets, *callbacks, sampler=ByLastLoss(ROWS))
