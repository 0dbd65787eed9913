"""Two hundred thousand training steps in one process: does anything grow, slow down or lose count?

A tiny classifier trains with everything at once: `LossProportional` draws candidates of 16 rows and is fed after each
step, `BatchSelection(Loss(), TopK())` keeps 8 of them, `LossReweighting(DynamicLoss())` weighs those, `SelectionReport`
listens, a CSV logger writes, and checkpoints are saved all along. It ends with bars on

* *memory*: resident at the end, less that after a tenth of the steps; at most 2 % of it, or 5 MB where that is more;
* *files and threads* open at the end, less those after a tenth;
* *pace*: processor time of the median step in the last tenth over that in the second, within 5 % either way. Other
  programs share the machine and its caches, so every chunk is compared with the median step of a fit that has just
  begun (the same without report, logger and checkpoints, 60 steps), run just after it. The ratios of bare processor
  time and wall clock stand beside it, without a bar: they tell how busy the machine was;
* *history*: how often each row was trained on, counted independently from the batches that reach the module, against
  what the sampler, the report and the last checkpoint say; rows never drawn; numbers that are not finite.

    python examples/benchmarks/soak.py --json examples/benchmarks/results/soak.json
"""

from __future__ import annotations

import gc
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import QUIET, Bar, InMemory, be_quiet, finish, options, print_table, without_attached
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting, SamplerFeedback, SelectionReport
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.dynamic_loss import DynamicLoss

__all__ = ["Reading", "bars", "consistency", "main", "pace", "tenths"]

BATCH, KEEP, INPUTS, CLASSES = 16, 8, 8, 4
STEPS, FAST_STEPS = 200_000, 30
CHUNKS, TENTHS, SAVES = 400, 10, 40
YARD, WARM = 60, 20
"""Steps of a fit that has just begun, and how many of them do not count."""
PACE, MEGABYTES, SHARE = 0.05, 5.0, 0.02


class Tiny(LightningModule):
    """A classifier whose step costs next to nothing, so that ours is what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, CLASSES))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@dataclass(frozen=True)
class Reading:
    """After a chunk: wall and processor milliseconds of its median step, those of a fresh fit, and what is held."""

    step: int
    wall: float
    processor: float
    fresh: float
    megabytes: float
    files: int
    threads: int

    @property
    def pace(self) -> float:
        """A step of the chunk in units of one of a fit that has just begun."""
        return self.processor / self.fresh


class Clock(Callback):
    """Takes the time between the ends of steps."""

    def __init__(self) -> None:
        self.wall, self.processor = list[float](), list[float]()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.wall.append(time.perf_counter())
        self.processor.append(time.thread_time())

    def median(self, name: str, warm_up: int = 0) -> float:
        """Milliseconds of the median step."""
        stamps = getattr(self, name)[warm_up:]
        return 1e3 * statistics.median(after - before for before, after in itertools.pairwise(stamps))


class Gauge(Clock):
    """Reads clock and process after every chunk, and counts the rows that reach the module."""

    def __init__(self, data: InMemory, chunk: int) -> None:
        super().__init__()
        self.chunk, self.data, self.readings = chunk, data, list[Reading]()
        self.trained = torch.zeros(len(data), dtype=torch.int64)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.trained += torch.bincount(batch[2], minlength=len(self.trained))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step % self.chunk:
            return
        wall, processor = self.median("wall"), self.median("processor")
        fresh = self._fresh()
        if trainer.global_step % max(trainer.max_steps // TENTHS, 1) == 0:
            gc.collect()  # takes longer than all else here, so only for the readings that are compared
        self.readings.append(Reading(trainer.global_step, wall, processor, fresh, *_held()))
        self.wall, self.processor = [time.perf_counter()], [time.thread_time()]

    def _fresh(self) -> float:
        """Processor milliseconds of the median step of a fit that has just begun."""
        clock = Clock()
        with torch.random.fork_rng(devices=[]):
            fit(self.data, YARD, LossProportional(len(self.data), floor=0.05), clock, settings=QUIET)
        return clock.median("processor", WARM)


def _held() -> tuple[float, int, int]:
    """Resident megabytes, open files and threads of this process, as Linux tells them."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir("/proc/self/fd")), int(status["Threads"])


def data_of(rows: int) -> InMemory:
    """Four classes around four points, and for a tenth of the rows a class at random; the row number beside them."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (rows,), generator=draw)
    x = torch.randn(CLASSES, INPUTS, generator=draw)[y] + torch.randn(rows, INPUTS, generator=draw)
    noisy = torch.rand(rows, generator=draw) < 0.1
    return InMemory(x, torch.where(noisy, torch.randint(CLASSES, (rows,), generator=draw), y), torch.arange(rows))


def fit(data: InMemory, steps: int, sampler: LossProportional, *others: Callback, settings: Any) -> LightningModule:
    """Train with sampler, selection and reweighting, and whatever else."""
    ours = [SamplerFeedback(), BatchSelection(Loss(), TopK(), keep=KEEP), LossReweighting(DynamicLoss())]
    torch.manual_seed(0)
    module = Tiny()
    trainer = without_attached(Trainer(**settings, max_steps=steps, max_epochs=-1, callbacks=[*ours, *others]))
    trainer.fit(module, DataLoader(data, BATCH, sampler=sampler, collate_fn=list))
    return module


def soak(steps: int, folder: Path) -> tuple[Gauge, dict[str, float]]:
    """Train, and compare what everybody counted."""
    chunks = min(CHUNKS, max(steps // 3, 1))
    rows = max(BATCH * steps // chunks, 10 * BATCH)  # so that a chunk is an epoch
    data = data_of(rows)
    gauge, sampler = Gauge(data, steps // chunks), LossProportional(rows, floor=0.05)
    report = SelectionReport(folder / "report")
    saving = ModelCheckpoint(folder, every_n_train_steps=max(steps // SAVES, 1))
    logger = CSVLogger(folder, flush_logs_every_n_steps=1000)
    settings = {**QUIET, "enable_checkpointing": True, "logger": logger}
    module = fit(data, steps, sampler, report, saving, gauge, settings=settings)
    state = torch.load(saving.best_model_path, weights_only=True)
    found = consistency(gauge.trained, sampler, report, state)
    found["rows trained on, more or fewer than asked"] = abs(int(gauge.trained.sum()) - steps * KEEP)
    found["numbers not finite"] += sum(int((~p.isfinite()).sum()) for p in module.parameters())
    return gauge, found


def consistency(trained: Tensor, sampler: LossProportional, report: Any, state: Any) -> dict[str, float]:
    """By how much others differ from what was counted, in rows."""
    history = sampler.state_dict()["learnt"]["history"]
    saved = next(part["sampler"] for part in state["callbacks"].values() if "sampler" in part)
    table = report.noting.record.table()
    losses = [history["last_loss"], history["ema_loss"], torch.from_numpy(table.last_loss)]
    return {
        "rows that the sampler counts otherwise": int((history["count"] != trained).sum()),
        "rows that the report counts otherwise": int((torch.from_numpy(table.chosen) != trained).sum()),
        "rows that the last checkpoint counts otherwise": int((saved["learnt"]["history"]["count"] != trained).sum()),
        "rows never drawn": int((table.offered == 0).sum()),
        "numbers not finite": sum(int((~column[trained > 0].isfinite()).sum()) for column in losses),
    }


def tenths(readings: Sequence[Reading]) -> list[list[Reading]]:
    """The chunks of each tenth of the run."""
    size = max(len(readings) // TENTHS, 1)
    return [list(readings[start : start + size]) for start in range(0, size * TENTHS, size)]


def median(part: Sequence[Reading], name: str) -> float:
    return statistics.median(getattr(one, name) for one in part)


def pace(readings: Sequence[Reading], name: str) -> float:
    """The last tenth over the second."""
    return median(tenths(readings)[-1], name) / median(tenths(readings)[1], name)


def bars(readings: Sequence[Reading], found: Mapping[str, float]) -> list[Bar]:
    """What has to hold."""
    early, late = tenths(readings)[0][-1], readings[-1]
    allowed = max(MEGABYTES, SHARE * early.megabytes)
    return [
        Bar("memory, MB more", late.megabytes - early.megabytes, "at most", round(allowed, 2)),
        Bar("open files more", late.files - early.files, "at most", 0),
        Bar("threads more", late.threads - early.threads, "at most", 0),
        Bar("pace, change from the second tenth to the last", abs(pace(readings, "pace") - 1), "at most", PACE),
        *(Bar(name, value, "at most", 0) for name, value in found.items()),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__, numbers={"steps": STEPS})
    be_quiet()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        gauge, found = soak(FAST_STEPS if asked.fast else asked.steps, Path(folder))
    readings = gauge.readings
    course = [
        asdict(part[-1]) | {name: median(part, name) for name in ("wall", "processor", "fresh", "pace")}
        for part in tenths(readings)
    ]
    header = ["after step", "MB", "files", "threads", "ms of a step", "of the processor", "of a fresh fit", "pace"]
    lines = [
        [f"{one['step']:,}", f"{one['megabytes']:.1f}", str(one["files"]), str(one["threads"])]
        + [f"{one[name]:.3f}" for name in ("wall", "processor", "fresh", "pace")]
        for one in course
    ]
    print_table(f"{readings[-1].step:,} steps, {len(gauge.data):,} rows, chunks of {gauge.chunk} steps", header, lines)
    ratios = {name: pace(readings, name) for name in ("pace", "processor", "wall")}
    print("\nlast tenth over the second: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
    figures = {"rows": len(gauge.data), "ratios": ratios, "history": found, "course": course}
    return finish("soak", figures, bars(readings, found), asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
