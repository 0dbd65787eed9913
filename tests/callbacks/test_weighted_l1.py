"""Steps that give ``F.l1_loss`` a weight, which torch hides from function modes, train as they do unwatched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select import BatchSelection, LossReweighting, SelectionReport, Signals
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.fitting import fit, loader, same, weights_of
from tests.modules import CLASSES, FEATURES, ROWS, Base

FIXED = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.4, 1.6, 1.8, 2.0])


def weighted_rows(rows: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    shapes = ((rows, FEATURES), (rows, CLASSES))
    return (*(torch.randn(shape, generator=g) for shape in shapes), 4 * torch.rand(rows, CLASSES, generator=g))


def data() -> Any:
    return loader(weighted_rows, size=ROWS)


class Regression(Base):
    reduction = "mean"

    def training_step(self, batch, batch_idx):
        x, y, weight = batch
        return F.l1_loss(self(x), y, reduction=self.reduction, weight=weight).mean()


class Unreduced(Regression):
    reduction = "none"


class ByHand(Regression):
    def training_step(self, batch, batch_idx):
        x, y, weight = batch
        return (FIXED[:, None] * weight * (self(x) - y).abs()).sum() / weight.sum()


class Cut(Regression):
    """Trains on the four rows of largest loss, found by hand."""

    def training_step(self, batch, batch_idx):
        x, y, weight = batch
        with torch.no_grad():
            rows = (weight * (self(x) - y).abs()).sum(dim=1).topk(4).indices.sort().values
        return super().training_step((x[rows], y[rows], weight[rows]), batch_idx)


def trained(module: Any, *callbacks: Any) -> dict[str, Tensor]:
    return weights_of(fit(module, *callbacks, data=data()))


@pytest.mark.parametrize("kind", [Regression, Unreduced])
def test_unit_weights_and_reports_train_like_no_callback(kind: type[Base], tmp_path: Any) -> None:
    plain = trained(kind)
    assert same(plain, trained(kind, LossReweighting(torch.ones_like)))
    assert same(plain, trained(kind, SelectionReport(tmp_path)))


def test_weights_are_those_written_by_hand() -> None:
    ours = trained(Regression, LossReweighting(lambda losses: FIXED))
    for key, value in trained(ByHand).items():
        torch.testing.assert_close(ours[key], value)


def test_rows_are_taken_by_their_weighted_losses() -> None:
    ours = trained(Regression, BatchSelection(Loss(), TopK(), keep=4))
    for key, value in trained(Cut).items():
        torch.testing.assert_close(ours[key], value)


class Asked(Regression):
    def selection_step(self, batch):
        x, y, weight = batch
        return Signals(loss=F.l1_loss(self(x), y, reduction="none", weight=weight).sum(dim=1))


def test_a_selection_step_gives_its_weights_too() -> None:
    ours = trained(Asked, BatchSelection(Loss(), TopK(), keep=4))
    for key, value in trained(Cut).items():
        torch.testing.assert_close(ours[key], value)
