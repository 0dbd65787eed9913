"""The way out ``selection_step``, asked beside training: what it leaves behind, and what weights make of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

from lightning_select import LossReweighting, SelectionReport, Signals
from tests.fitting import fit, loader, same, weights_of
from tests.modules import CLASSES, FEATURES, ROWS, Base, Opaque, features

FIXED = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.4, 1.6, 1.8, 2.0])


class Moving(Base):
    """Has all that a pass changes: statistics, noise, a metric, a log, a counter, a batch that is taken apart."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(inplace=True)]
        self.net = nn.Sequential(*layers, nn.Linear(16, CLASSES))
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=CLASSES)
        self.register_buffer("passes", torch.zeros(()))
        self.seen: list[int] = []
        self.rows = 0

    def logits(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = batch.pop("x"), batch.pop("y")
        x.mul_(1.0 + 0.01 * random.random() + 0.01 * float(np.random.random()))  # noqa: NPY002
        logits = self(x + 0.1 * torch.randn_like(x))
        self.accuracy.update(logits, y)
        self.passes += 1
        self.seen.append(len(y))
        return logits, y

    def training_step(self, batch, batch_idx):
        return Opaque.apply(*self.logits(batch))

    def selection_step(self, batch):
        logits, y = self.logits(batch)
        self.log("second_pass", logits.mean())
        return Signals(loss=F.cross_entropy(logits, y, reduction="none"), logits=logits, targets=y)

    def on_train_epoch_end(self) -> None:
        self.rows = int(self.accuracy.tp.sum() + self.accuracy.fn.sum())


class ByHand(Moving):
    """What weights of the rows are to come to, written by hand."""

    def training_step(self, batch, batch_idx):
        logits, y = self.logits(batch)
        return (FIXED * F.cross_entropy(logits, y, reduction="none")).mean()


def named(rows: int) -> dict[str, Tensor]:
    x, y = features(rows=rows)
    return {"x": x, "y": y}


def fitted(module: type[Base], *callbacks: Any, **kwargs: Any) -> Any:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    return fit(module, *callbacks, data=loader(named, size=ROWS), **kwargs)


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2, "precision": "bf16-mixed"}])
@pytest.mark.parametrize("callback", ["unit weights", "report", "both"])
def test_a_second_pass_leaves_no_trace(callback: str, settings: dict[str, Any], tmp_path: Path) -> None:
    callbacks: list[Any] = [] if callback == "report" else [LossReweighting(torch.ones_like)]
    callbacks += [] if callback == "unit weights" else [SelectionReport(tmp_path)]
    plain = fitted(Moving, **settings)
    drawn = torch.rand(1), random.random(), np.random.random()  # noqa: NPY002
    ours = fitted(Moving, *callbacks, **settings)
    assert (torch.rand(1), random.random(), np.random.random()) == drawn  # noqa: NPY002
    assert same(weights_of(plain), weights_of(ours))
    assert ours.lightning_module.rows == plain.lightning_module.rows == 2 * 48
    assert ours.lightning_module.seen == plain.lightning_module.seen
    assert "second_pass" not in ours.callback_metrics


def test_both_passes_see_the_same_batch_state_and_noise() -> None:
    ours = fitted(Moving, LossReweighting(lambda losses: FIXED))
    for key, value in weights_of(fitted(ByHand)).items():
        torch.testing.assert_close(weights_of(ours)[key], value, rtol=1e-4, atol=1e-6)


class Scales(Base):
    """Its selection step, and nothing else, changes a buffer that the graph of its losses needs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def training_step(self, batch, batch_idx):
        return Opaque.apply(self(batch[0]), batch[1])

    def selection_step(self, batch):
        self.scale.mul_(2.0)
        return Signals(loss=F.cross_entropy(self(batch[0]) / self.scale, batch[1], reduction="none"))


def test_a_graph_that_needs_what_is_put_back_is_refused_and_not_wrong() -> None:
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        fit(Scales, LossReweighting(lambda losses: FIXED), data=loader(size=ROWS))
