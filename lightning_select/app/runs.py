"""What a comparison writes down, run by run, so that one that is killed keeps what it had."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lightning_select.app.recorder import Point
from lightning_select.errors import ConfigurationError

__all__ = ["Run", "RunLog", "write_csv"]


@dataclass(frozen=True)
class Run:
    """One method trained on one seed.

    Attributes:
        method: Name of the method.
        seed: The seed.
        error: Why it failed; empty where it did not.
        final: The final metric, from test data where there is some.
        final_metric: Its name.
        steps: Optimiser steps.
        samples: Rows that went through a forward pass.
        seconds: Time of training, with scoring and reference models, without evaluations.
        rows_per_step: Rows that a step learnt from, on average.
        flagged_share: Share of rows with wrong labels in what was trained on, where they are marked.
        points: The learning curve.
    """

    method: str
    seed: int
    error: str = ""
    final: float | None = None
    final_metric: str = ""
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    rows_per_step: float = 0.0
    flagged_share: float | None = None
    points: tuple[Point, ...] = field(default=(), repr=False)


class RunLog:
    """``runs.csv`` (a line per run) and ``curves.csv`` (a line per evaluation of a run).

    Args:
        folder: Where they lie; they must not exist yet.

    Raises:
        ConfigurationError: The folder holds the runs of another comparison.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs.csv"
        self.curves = folder / "curves.csv"
        self._columns = [column.name for column in fields(Run) if column.name != "points"]
        if self.runs.exists():
            raise ConfigurationError(f"hydra.run.dir must be a new folder, got {folder}, which already holds runs.csv.")
        _append(self.runs, [self._columns])
        _append(self.curves, [["method", "seed", *(column.name for column in fields(Point))]])

    def add(self, run: Run) -> None:
        """Append a run; it is on the disk when this returns."""
        values = asdict(run)
        _append(self.curves, ([run.method, run.seed, *asdict(point).values()] for point in run.points))
        _append(self.runs, [["" if values[name] is None else values[name] for name in self._columns]])


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table anew, one mapping per line."""
    file.unlink(missing_ok=True)
    _append(file, [list(rows[0]), *(["" if value is None else value for value in row.values()] for row in rows)])


def _append(file: Path, lines: Iterable[Sequence[Any]]) -> None:
    with file.open("a", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(lines)
        handle.flush()
        os.fsync(handle.fileno())
