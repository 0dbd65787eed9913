"""The learning curve of one run: steps, rows and seconds at each evaluation, and what was trained on."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_select.app.compare.counting import BACKWARD, RowCount
from lightning_select.batch import count_rows
from lightning_select.callbacks.loss_reweighting import LossReweighting
from lightning_select.compat import Callback
from lightning_select.errors import ConfigurationError

__all__ = ["MissingMetricError", "Point", "Recorder", "logged_metric", "metric_of_test"]


class MissingMetricError(ConfigurationError):
    """The module logs no metric of the name that the config gives."""


@dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
        step: Optimiser steps so far.
        samples: Rows that went through a forward pass so far, those of scoring and of reference models included.
        seconds: Time so far, with scoring and reference models, without evaluations.
        value: The metric.
        trained: Rows so far whose forward pass was followed by a backward pass, those of reference models included.
    """

    step: int
    samples: int
    seconds: float
    value: float
    trained: int = 0

    @property
    def cost(self) -> int:
        """Forward passes of a row so far, a backward pass counted as two of them."""
        return self.samples + BACKWARD * self.trained


class Recorder(Callback):
    """Records a `Point` at the end of every validation; to be the first of the Trainer's callbacks.

    Args:
        metric: Name of the metric that validation logs.
        count: Rows so far.
        flag_key: Entry of a batch that marks rows; their share in what was trained on is `flagged_share`.
        report: Is told of every point.
        apart: Seconds so far that are no part of training, such as those of a report on the rows.

    Attributes:
        points: The curve.
        seconds: Time of training, without evaluations.
        batches: Batches of the training loader so far.
    """

    def __init__(
        self,
        metric: str,
        count: RowCount,
        flag_key: str | None,
        report: Callable[[Point], None] | None = None,
        apart: Callable[[], float] = float,
    ) -> None:
        self.points: list[Point] = []
        self.seconds = 0.0
        self.batches = 0
        self._metric = metric
        self._count = count
        self._flag_key = flag_key
        self._report = report
        self._apart = apart
        self._started = self._apart_before = 0.0
        self._trained = 0
        self._flagged: Tensor | None = None
        self._weight: Tensor | None = None
        self._old_weights: list[Tensor | None] = []

    @property
    def flagged_share(self) -> float | None:
        """Share of marked rows in what was trained on, each row by its weight; ``None`` where nothing is marked."""
        if self._flagged is None or self._weight is None:
            return None
        return float(self._flagged / self._weight)

    def rows_per_step(self, steps: int) -> float:
        """Rows that one of ``steps`` optimiser steps learnt from, on average."""
        return self._trained / max(steps, 1)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock, before anyone trains a reference."""
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock."""
        self._stop(pl_module.device)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record, and let the clock run on.

        The sanity check before training only shows whether the metric is there, so that nobody trains for nothing. A
        module that logs nothing in it may do so later, and one whose names tell of the stage (``sanity_check_loss``)
        will use others.

        Raises:
            MissingMetricError: Validation does not log the metric.
        """
        if trainer.sanity_checking:
            if trainer.callback_metrics and not any("sanity" in name.lower() for name in trainer.callback_metrics):
                logged_metric(trainer, self._metric, "compare.metric", "validation")
        else:
            value = logged_metric(trainer, self._metric, "compare.metric", "validation")
            point = Point(trainer.global_step, self._count.rows, self.seconds, value, self._count.trained)
            self.points.append(point)
            if self._report is not None:
                self._report(point)
        self._started = time.perf_counter()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock for good."""
        self._stop(pl_module.device)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count the rows that were kept."""
        self.batches += 1
        self._trained += count_rows(batch)
        self._old_weights = self._weights_of(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the marked rows among them, on the device."""
        marks = batch.get(self._flag_key) if isinstance(batch, Mapping) else None
        if not isinstance(marks, Tensor):
            return
        marks = marks.float()
        weights = torch.ones_like(marks)
        for new, old in zip(self._weights_of(trainer), self._old_weights, strict=True):
            if new is not None and new is not old:  # an inactive method leaves the weights of its last active step
                weights = weights * new
        flagged, weight = (weights * marks).sum(), weights.sum()
        self._flagged = flagged if self._flagged is None else self._flagged + flagged
        self._weight = weight if self._weight is None else self._weight + weight

    def _weights_of(self, trainer: Any) -> list[Tensor | None]:
        return [callback.last_weights for callback in trainer.callbacks if isinstance(callback, LossReweighting)]

    def _stop(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        apart = self._apart()
        self.seconds += time.perf_counter() - self._started - (apart - self._apart_before)
        self._apart_before = apart


def metric_of_test(trainer: Any, metric: str, final_metric: str | None) -> tuple[float, str] | None:
    """The final metric and its name, from the test that has just been run; ``None`` where only the curve tells.

    Args:
        trainer: The Trainer.
        metric: Name of the metric that validation logs.
        final_metric: Name of the metric that test logs; ``None`` stands for ``metric`` with a leading ``val`` replaced
            by ``test`` (``test/loss`` for ``val/loss``, ``test_loss`` for ``val_loss``), where test logs that.

    Raises:
        MissingMetricError: A metric is named, and test does not log it.
    """
    if final_metric is not None:
        return logged_metric(trainer, final_metric, "compare.final_metric", "test"), final_metric
    name = re.sub(r"^(val|valid|validation)(?=[^A-Za-z0-9])", "test", metric)
    return (float(trainer.callback_metrics[name]), name) if name in trainer.callback_metrics else None


def logged_metric(trainer: Any, name: str, key: str, stage: str) -> float:
    """The latest value of a metric that the module logged.

    Args:
        trainer: The Trainer.
        name: Name of the metric.
        key: The setting that names it.
        stage: Who should have logged it.

    Raises:
        MissingMetricError: It logged none of that name; the message says what to write instead.
    """
    value = trainer.callback_metrics.get(name)
    if value is not None:
        return float(value)
    known = sorted(trainer.callback_metrics)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    way = f"Write {key}={near[0]}" if near else f"Set {key} to one of them" if known else "Log it with self.log"
    raise MissingMetricError(
        f"{key} must be logged by {stage}, got {name!r}; logged: {', '.join(known) or 'nothing'}. {way}."
    )
