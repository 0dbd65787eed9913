"""What it costs to record the loss of every row, at a step of 10 ms.

* *recording*: a sampler that draws rows in random order, as `RandomSampler` does, and keeps a `SampleHistory` of their
  losses, against plain Lightning with torch's `RandomSampler`. The difference is what feeding a sampler costs.
* `LossProportional` beside it, whose draws follow what was recorded, without a bar; and what the callback costs that is
  attached to every Trainer, where there is no sampler of ours.
* Operations of a training step for which a host would wait on a device, more than those of plain Lightning. They are
  counted as torch dispatches them, with the checks of values off that are made on a CPU alone. Drawing for a
  DataLoader hands row ids to the host once per batch, outside of the step, and is not counted; `DeviceLoader` does not.

Arms take turns in one process, as in overhead.py: ratios of median steps, round by round, and their 95 % interval.

    python examples/benchmarks/history.py --json examples/benchmarks/results/history.json
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from arms import CLASSES, INPUTS, ROWS, Arm, Classifier, Clock, Turn
from common import QUIET, Bar, InMemory, be_quiet, finish, options, without_attached
from lightning.pytorch import Callback, Trainer
from overhead import FAST, Plan, compare, load, show
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, RandomSampler, Sampler

from lightning_select import SamplerFeedback
from lightning_select.history import SampleHistory
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.samplers.repeated_random import RepeatedRandom

__all__ = ["Recording", "added_waits", "main"]

DATASET = 50_000
PLAIN, RECORDING, DRAWING = "plain Lightning", "recording", "LossProportional"
IDLE = "RandomSampler, with the callback attached"
LIMIT = 1.03
WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero", "aten.equal")


class Recording(RepeatedRandom):
    """Random order, and a history that nobody reads."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows, fraction=1.0)
        self.history = SampleHistory(rows)

    @property
    def needs(self) -> frozenset[str]:
        """Losses."""
        return frozenset({"loss"})

    def learn(self, ids: Tensor, signals: Mapping[str, Tensor]) -> None:
        """Write them down."""
        self.history.update(ids, self.updates, loss=signals["loss"])


def dataset() -> InMemory:
    """Rows in memory."""
    draw = torch.Generator().manual_seed(0)
    return InMemory(torch.randn(DATASET, INPUTS, generator=draw), torch.randint(CLASSES, (DATASET,), generator=draw))


def fit(data: InMemory, width: int, steps: int, sampler: Sampler[int], *callbacks: Callback) -> None:
    """Train for so many steps."""
    torch.manual_seed(0)
    loader = DataLoader(data, ROWS, sampler=sampler, collate_fn=lambda batch: batch, drop_last=True)
    without_attached(Trainer(**QUIET, max_steps=steps, callbacks=list(callbacks))).fit(Classifier(width), loader)


def arm(data: InMemory, make: Callable[[], Sampler[int]], *, fed: bool = True) -> Arm:
    """A turn with one kind of sampler."""

    def turn(width: int, warm_up: int, count: int) -> Turn:
        clock = Clock()
        fit(data, width, warm_up + count + 3, make(), *([SamplerFeedback()] if fed else []), clock)
        return Turn.of(clock.stamps, warm_up)

    return turn


class Waits(TorchDispatchMode):
    """Counts operations for which the host would wait on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masked = func.name().startswith("aten::index") and any(
            isinstance(one, Tensor) and one.dtype == torch.bool
            for part in args
            if isinstance(part, (list, tuple))
            for one in part
        )
        self.count += str(func).startswith(WAITING) or masked
        return func(*args, **(kwargs or {}))


class Watch(Callback):
    """Counts waits of training steps from the third on, as on a device: without the checks made on a CPU alone."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.waits = Waits()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start to count."""
        if hasattr(self.sampler, "history"):
            self.sampler.history._looks = False
        if batch_idx >= 2:
            self.waits.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop, after the feedback."""
        if batch_idx >= 2:
            self.waits.__exit__(None, None, None)


def added_waits(data: InMemory, steps: int = 6) -> float:
    """Waits of a step with recording, less those of plain Lightning."""
    counts = []
    for sampler in (RandomSampler(data), Recording(DATASET)):
        watch = Watch(sampler)
        torch.manual_seed(0)
        loader = DataLoader(data, ROWS, sampler=sampler, collate_fn=lambda batch: batch, drop_last=True)
        # The feedback goes before all other callbacks, so the watch stops after it.
        trainer = without_attached(Trainer(**QUIET, max_steps=steps, callbacks=[SamplerFeedback(), watch]))
        trainer.fit(Classifier(64), loader)
        counts.append(watch.waits.count)
    return (counts[1] - counts[0]) / (steps - 2)


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__)
    be_quiet()
    torch.set_num_threads(1)
    started, data = time.perf_counter(), dataset()
    plan = FAST if asked.fast else Plan(targets=(10e-3,), seconds=120.0)
    print(f"batches of {ROWS} out of {DATASET:,} rows, one thread; load of the machine {load()}")
    arms = {
        PLAIN: arm(data, lambda: RandomSampler(data), fed=False),
        RECORDING: arm(data, lambda: Recording(DATASET)),
        DRAWING: arm(data, lambda: LossProportional(DATASET)),
        IDLE: arm(data, lambda: RandomSampler(data)),
    }
    figures = compare(arms, plan.targets[0], plan)
    show(figures)
    waits = added_waits(data)
    print(f"\noperations of a step that wait, more than in plain Lightning: {waits:g}\nload of the machine {load()}")
    ratio = next(figure.ratio.median for figure in figures if figure.arm == RECORDING)
    bars = [
        Bar("recording at 10 ms", ratio, "at most", LIMIT),
        Bar("added waits", waits, "at most", 0.0),
    ]
    record: Any = {"steps": [asdict(figure) for figure in figures], "added waits": waits}
    return finish("history", record, bars, asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
