"""How far training is where a module optimises by hand: with as many optimizers, as often, as it likes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from lightning_select import Anneal, BatchSelection, Schedule, Signals
from lightning_select.samplers.end_upsampling import EndUpsampling
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.callbacks.test_sampler_feedback import run
from tests.fitting import Rows, trainer
from tests.modules import CLASSES, FEATURES, Base

ROWS, SIZE, BATCHES = 32, 4, 8
STEPS = [(2, 1), (1, 4), (1, 1)]
"""Optimizers, and batches from one step of each to the next."""


class ByHand(Base):
    def __init__(self, optimizers: int, every: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other, self.many, self.every = nn.Linear(FEATURES, CLASSES), optimizers, every
        self.sizes: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.sizes.append(len(batch[0]))
        made: Any = self.optimizers()
        for optimizer, net in zip(made if self.many > 1 else [made], (self.net, self.other), strict=False):
            self.manual_backward(F.cross_entropy(net(batch[0]), batch[1]))
            if batch_idx % self.every == self.every - 1:
                optimizer.step()
                optimizer.zero_grad()

    def selection_step(self, batch: Any) -> Signals:
        return Signals(loss=F.cross_entropy(self(batch[0]), batch[1], reduction="none"))

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.02) for net in (self.net, self.other)[: self.many]]


def data() -> DataLoader:
    """The first half of the rows are drawn in the first half of the training, the others in the second."""
    domains = ["first"] * (ROWS // 2) + ["second"] * (ROWS // 2)
    first, second = {"first": 1.0, "second": 0.0}, {"first": 0.0, "second": 1.0}
    sampler = EndUpsampling(ROWS, domains, first, end_weights=second, start=0.5)
    return DataLoader(Rows(rows=ROWS), SIZE, sampler=sampler)


def halves(ids: list[list[int]]) -> list[bool]:
    return [row >= ROWS // 2 for batch in ids for row in batch]


@pytest.mark.parametrize(("optimizers", "every"), STEPS)
@pytest.mark.parametrize("bound", ["epochs", "steps"])
def test_a_sampler_changes_in_the_middle(optimizers: int, every: int, bound: str) -> None:
    batches = 4 * BATCHES
    steps = batches * optimizers // every
    ends = {"max_epochs": 4} if bound == "epochs" else {"max_epochs": -1, "max_steps": steps}
    done, journal = run(None, module=ByHand(optimizers, every), data=data(), **ends)
    assert done.global_step == steps
    assert halves(journal.ids) == [at >= batches // 2 for at in range(batches) for _ in range(SIZE)]


@pytest.mark.parametrize(("optimizers", "every"), STEPS)
def test_a_selection_changes_in_the_middle(optimizers: int, every: int) -> None:
    module = ByHand(optimizers, every)
    half = BatchSelection(Loss(), TopK(), keep=0.5, schedule=Schedule(start=0.5, every=2), name="half")
    less = BatchSelection(Loss(), TopK(), keep=Anneal(1.0, 0.25, stop=0.5), schedule=Schedule(stop=0.5), name="less")
    trainer(half, less, max_epochs=2).fit(module, DataLoader(Rows(rows=ROWS), SIZE))
    assert module.sizes == [int(4 - 3 * at / 8 + 0.5) for at in range(8)] + [2, 4] * 4


@pytest.mark.parametrize(("optimizers", "every"), STEPS[:2])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("batch", [5, 7, 13])
def test_a_resumed_run_is_as_far(optimizers: int, every: int, hook: str, batch: int, tmp_path: Path) -> None:
    class Saves(pl.Callback):
        seen = -1

        def on_train_batch_start(self, trainer: Any, *rest: Any) -> None:
            self.seen += 1
            if self.seen == batch and hook == "on_train_batch_start":
                trainer.save_checkpoint(tmp_path / "mine.ckpt")

        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if self.seen == batch - 1 and hook == "on_train_batch_end":
                trainer.save_checkpoint(tmp_path / "mine.ckpt")

    whole, journal = run(None, Saves(), module=ByHand(optimizers, every), data=data(), max_epochs=2)
    again, rest = run(None, module=ByHand(optimizers, every), data=data(), ckpt=tmp_path / "mine.ckpt", max_epochs=2)
    assert rest.ids == journal.ids[batch:]
    assert [one.train_dataloader.sampler.progress.step for one in (whole, again)] == [2 * BATCHES] * 2
