"""What `overhead` measures: modules, the arms that are compared, and the clock.

An arm is fitted for a turn: a few steps that do not count, those whose median counts, and the one at which loggers are
due. Lightning hands over to the loggers after the callbacks' last hook, so what that costs falls into the step after.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from common import QUIET, without_attached
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from lightning_select import BatchSelection, LossReweighting, Schedule
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.dynamic_loss import DynamicLoss

__all__ = ["GROUPS", "LIMITS", "ROWS", "Arm", "Turn"]

ROWS, INPUTS, CLASSES, KEEP = 256, 64, 10, 0.25
CADENCE = 50
"""Steps between two that the loggers hear of, Lightning's default."""

CLOSING = 3
"""Steps at the end of a turn: the one at which loggers are due, the one after, and the end of the epoch."""

HAND, SELECTION, BARE = "by hand in Lightning", "BatchSelection", "bare torch loop"
PLAIN, REWEIGHTING = "plain Lightning", "LossReweighting"
IDLE_SELECTION, IDLE_REWEIGHTING = "BatchSelection, inactive", "LossReweighting, inactive"
LIMITS = {SELECTION: 1.10, REWEIGHTING: 1.05, IDLE_SELECTION: 1.02, IDLE_REWEIGHTING: 1.02}


@dataclass(frozen=True)
class Turn:
    """Seconds of the median step, and of the mean step over one cadence of the loggers."""

    median: float
    cadence: float

    @classmethod
    def of(cls, stamps: Sequence[float], warm_up: int) -> Turn:
        """From the time at the end of every step."""
        seconds = [after - before for before, after in itertools.pairwise(stamps)]
        median = statistics.median(seconds[warm_up - 1 : -CLOSING])
        due, after = seconds[-CLOSING : -CLOSING + 2]
        return cls(median, median + (due + after - 2 * median) / CADENCE)


Arm = Callable[[int, int, int], Turn]
"""From the width of the network, the steps that warm up, and the steps that count."""


def network(width: int) -> nn.Sequential:
    sizes = (INPUTS, width, width, width)
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, CLASSES))


class Classifier(LightningModule):
    """Three hidden layers and a cross entropy."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = network(width)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class SelectingByHand(Classifier):
    """What someone without a callback would write."""

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        self.eval()
        with torch.no_grad():
            losses = F.cross_entropy(self.net(x), y, reduction="none")
        self.train()
        index = losses.topk(int(KEEP * len(y))).indices
        return F.cross_entropy(self.net(x[index]), y[index])


class Batches:
    """The same batch again and again, from memory."""

    def __init__(self, count: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.batch = [torch.randn(ROWS, INPUTS, generator=draw), torch.randint(CLASSES, (ROWS,), generator=draw)]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        return (self.batch for _ in range(self._count))


class Clock(Callback):
    """Notes the end of every step."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.stamps.append(time.perf_counter())


def fitting(kind: type[Classifier], make: Callable[[], Callback] | None = None) -> Arm:
    """Fit a module, with a callback or without, and with a logger that keeps nothing."""

    def arm(width: int, warm_up: int, count: int) -> Turn:
        torch.manual_seed(0)
        clock = Clock()
        callbacks = [clock] if make is None else [make(), clock]
        steps = warm_up + count + CLOSING
        settings = {**QUIET, "logger": DummyLogger(), "log_every_n_steps": steps - CLOSING + 1}
        without_attached(Trainer(**settings, max_epochs=1, callbacks=callbacks)).fit(kind(width), Batches(steps))
        return Turn.of(clock.stamps, warm_up)

    return arm


def bare(width: int, warm_up: int, count: int) -> Turn:
    """The same as by hand, without Lightning."""
    torch.manual_seed(0)
    net = network(width)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    stamps = []
    for x, y in Batches(warm_up + count + CLOSING):
        net.eval()
        with torch.no_grad():
            losses = F.cross_entropy(net(x), y, reduction="none")
        net.train()
        index = losses.topk(int(KEEP * len(y))).indices
        loss = F.cross_entropy(net(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stamps.append(time.perf_counter())
    return Turn.of(stamps, warm_up)


def selecting(schedule: Schedule | None = None) -> BatchSelection:
    return BatchSelection(Loss(), TopK(), keep=KEEP, schedule=schedule)


def reweighting(schedule: Schedule | None = None) -> LossReweighting:
    return LossReweighting(DynamicLoss(), schedule=schedule)


NEVER = Schedule(start=10**9)

GROUPS: Sequence[Mapping[str, Arm]] = (
    {HAND: fitting(SelectingByHand), SELECTION: fitting(Classifier, selecting), BARE: bare},
    {
        PLAIN: fitting(Classifier),
        REWEIGHTING: fitting(Classifier, reweighting),
        IDLE_SELECTION: fitting(Classifier, lambda: selecting(NEVER)),
        IDLE_REWEIGHTING: fitting(Classifier, lambda: reweighting(NEVER)),
    },
)
"""Arms that are compared with the first of their group."""
