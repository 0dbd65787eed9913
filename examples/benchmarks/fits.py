"""One training run of a bed, many of them side by side, and what they come to over the seeds."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import QUIET, InMemory, be_quiet, loader
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from lightning_select import LossReweighting
from lightning_select.app.compare.counting import RowCount, counted_rows

__all__ = ["Data", "Job", "Outcome", "Outcomes", "Runs", "Spread", "fit", "lead", "plain", "scheduled", "share"]

WEIGHTS, ORDER = 10_000, 20_000
"""Added to the seed of the data, so that no two things are drawn from one stream of numbers."""


@dataclass(frozen=True)
class Data:
    """``train`` has a third column: was the row corrupted? The modules do not look at it."""

    train: InMemory
    test: InMemory


@dataclass(frozen=True)
class Job:
    """One fit on ``rows`` rows, some of them corrupted or none, looked at after the steps in ``marks``."""

    method: str
    corrupted: bool
    marks: tuple[int, ...]
    rows: int
    batch: int
    rate: float
    decay: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came out, by step: the figure on the test data, rows through the model and seconds until then."""

    figures: Mapping[int, float]
    rows: Mapping[int, int]
    seconds: Mapping[int, float]
    corrupted: float


Outcomes = Sequence[Outcome]
"""Of one job, seed by seed."""


class Watch(Callback):
    """Looks at the module after some steps, and at what it was trained on after all of them.

    Seconds are those of the processor since this was made: everything that the method does counts, reference training
    included, and neither other processes nor the look itself do.
    """

    def __init__(self, marks: Sequence[int], test: InMemory, count: RowCount) -> None:
        self.figures: dict[int, float] = {}
        self.rows: dict[int, int] = {}
        self.seconds: dict[int, float] = {}
        self._marks, self._test, self._count = marks, test, count
        self._started = time.process_time()
        self._corrupted: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        weights = next((c.last_weights for c in trainer.callbacks if isinstance(c, LossReweighting)), None)
        share = batch[2].float() if weights is None else batch[2].float() * weights
        self._corrupted.append(share.mean())
        if trainer.global_step in self._marks:
            now = time.process_time()
            self.seconds[trainer.global_step] = now - self._started
            self.rows[trainer.global_step] = self._count.rows
            with torch.no_grad():
                self.figures[trainer.global_step] = pl_module.figure(self._test)
            self._started += time.process_time() - now

    @property
    def outcome(self) -> Outcome:
        """``corrupted`` is the share of the corrupted rows in training: of the weight, where rows are reweighted."""
        return Outcome(self.figures, self.rows, self.seconds, float(torch.stack(self._corrupted).mean()))


def fit(job: Job, data: Data, make: Callable[[], LightningModule], callbacks: Sequence[Callback]) -> Outcome:
    """Fit once. Data, initial weights and the order of rows depend on the seed alone, so methods can be paired."""
    torch.set_num_threads(1)
    be_quiet()
    seed_everything(WEIGHTS + job.seed, verbose=False)
    module = make()
    with counted_rows(type(module)) as count:
        watch = Watch(job.marks, data.test, count)
        trainer = Trainer(**QUIET, max_epochs=-1, max_steps=max(job.marks), callbacks=[*callbacks, watch])
        trainer.fit(module, loader(data.train, job.batch, ORDER + job.seed))
    return watch.outcome


def scheduled(module: Any, optimizer: torch.optim.Optimizer, decay: bool) -> Any:
    """A constant rate, or one that falls linearly to zero at the end of training; of its own, in a reference model."""
    if not decay:
        return optimizer
    steps = int(module.trainer.estimated_stepping_batches)
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": fall, "interval": "step"}}


class Runs:
    """Runs jobs, as many at a time as there are workers."""

    def __init__(self, workers: int) -> None:
        self._pool = None
        if workers > 1:
            self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

    def __call__(self, bed: Callable[[Job], Outcome], jobs: Iterable[Job], seeds: Sequence[int]) -> dict[Job, Outcomes]:
        """Outcomes of every job, each on all seeds."""
        each = [(job, replace(job, seed=seed)) for job in dict.fromkeys(jobs) for seed in seeds]
        seeded = [one for _, one in each]
        outcomes = self._pool.map(bed, seeded) if self._pool else map(bed, seeded)
        found: dict[Job, list[Outcome]] = defaultdict(list)
        for number, ((job, _), outcome) in enumerate(zip(each, outcomes, strict=True), start=1):
            found[job].append(outcome)
            if sys.stderr.isatty():
                print(f"\r{number} of {len(each)} fits ", end="", file=sys.stderr)
        return dict(found)

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of the seeds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """An error that is not a number is worse than any other, so it must not get lost in a sort."""
        known = [math.inf if math.isnan(value) else value for value in values]
        return cls(statistics.median(known), min(known), max(known))

    @classmethod
    def at(cls, outcomes: Outcomes, mark: int) -> Spread:
        return cls.of(outcome.figures[mark] for outcome in outcomes)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}..{self.high:{spec}})"


def _last(outcome: Outcome) -> float:
    return outcome.figures[max(outcome.figures)]


def share(method: Outcomes, other: Outcomes) -> Spread:
    """Ratio of the last figures, seed by seed."""
    return Spread.of(_last(one) / _last(two) for one, two in zip(method, other, strict=True))


def lead(method: Outcomes, mark: int, other: Outcomes) -> Spread:
    """Figure at ``mark`` less that of the other at the same step, or at its end, seed by seed."""
    pairs = zip(method, other, strict=True)
    return Spread.of(one.figures[mark] - two.figures.get(mark, _last(two)) for one, two in pairs)


def plain(outcomes: Outcomes) -> dict[str, Any]:
    """For the JSON file: figures of every seed by step, with their median; rows and median seconds by step."""
    marks = outcomes[0].figures
    return {
        "figures": {mark: [round(outcome.figures[mark], 5) for outcome in outcomes] for mark in marks},
        "median": {mark: round(Spread.at(outcomes, mark).median, 5) for mark in marks},
        "rows": dict(outcomes[0].rows),
        "seconds": {mark: round(statistics.median(one.seconds[mark] for one in outcomes), 3) for mark in marks},
        "corrupted": round(statistics.median(outcome.corrupted for outcome in outcomes), 4),
    }
