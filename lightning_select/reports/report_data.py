"""Everything that a report shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_select.reports.row_table import RowTable
from lightning_select.reports.suspects import Suspects
from lightning_select.reports.timeline import Timeline

__all__ = ["Cost", "ReportData"]


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        seconds: Time of training, without evaluations.
        selection_seconds: How much of it was spent on scoring, selecting, weighing and feeding samplers.
        report_seconds: How much of it was spent on keeping this record.
        steps: Optimiser steps.
        offered: Rows in batches before selection.
        trained: Rows that went through a backward pass.
    """

    seconds: float
    selection_seconds: float
    report_seconds: float
    steps: int
    offered: int
    trained: int


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows.

    Attributes:
        title: What the run is called.
        facts: Names and values: module, dataset, callbacks, epochs, date, versions.
        notices: What the reader should know first: an interruption, what could not be read and why.
        table: What is known of each row.
        timeline: How scores and losses moved.
        suspects: Likely mislabelled rows; ``None`` where nothing could be said.
        cost: What it took.
        show: From the number of a row to what the dataset holds there: an image, a text, numbers, anything. It may
            raise; the page then shows why.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    notices: tuple[str, ...]
    table: RowTable
    timeline: Timeline
    suspects: Suspects | None
    cost: Cost
    show: Callable[[int], Any]
