"""Put together what a report shows, from what was noted and what the Trainer tells."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from lightning_select.callbacks.base import SelectionCallback
from lightning_select.callbacks.batch_selection import BatchSelection
from lightning_select.callbacks.choice import name_of
from lightning_select.callbacks.loss_reweighting import LossReweighting
from lightning_select.callbacks.report_checks import numbered
from lightning_select.reports.likely_mislabelled import likely_mislabelled
from lightning_select.reports.report_data import Cost, ReportData
from lightning_select.reports.row_table import RowTable
from lightning_select.reports.writing import write_report
from lightning_select.signals.traceless.generators import Generators

__all__ = ["gather_report", "table_of", "time_taken"]

_HANDED_OVER = (
    "Seconds of selection are those in which the host handed the work over; what the device took for scoring is logged "
    "as scoring_seconds."
)


def gather_report(report: Any, trainer: Any, module: Any) -> Path:
    """Write the page of a report and return where it is; whatever the dataset draws at random is put back."""
    table = table_of(report)
    if trainer.strategy.root_device.type != "cpu":
        report.note(_HANDED_OVER)
    _note_what_is_missing(report, table)
    data = ReportData(
        title=report.title,
        facts=_facts(trainer, module, table),
        notices=tuple(report.notices),
        table=table,
        timeline=report.noting.snapshots.timeline(),
        suspects=likely_mislabelled(table),
        cost=_cost(report, trainer, table),
        show=report.show or _from(report.interception),
    )
    with Generators().kept(trainer.strategy.root_device):
        return write_report(report.place, data)


def table_of(report: Any) -> RowTable:
    """The record of a report, with the groups that the user gave."""
    groups = report.groups
    if groups is None or isinstance(groups, str):
        return report.noting.record.table(report.class_names)
    numbers, names = numbered(groups)
    return dataclasses.replace(report.noting.record.table(report.class_names, names), group=numbers)


def time_taken(report: Any) -> dict[str, float]:
    """Seconds of selection and of a report itself, in its fit and in those that it goes on from."""
    # All reports of a Trainer share one clock, and none of them selects.
    spent = report.clock.seconds
    selection = sum(seconds for one, seconds in spent.items() if not hasattr(one, "noting"))
    now = {"selection_seconds": selection, "report_seconds": spent.get(report, 0.0)}
    return {name: report.earlier.get(name, 0.0) + seconds for name, seconds in now.items()}


def _facts(trainer: Any, module: Any, table: RowTable) -> tuple[tuple[str, str], ...]:
    ours = [one for one in trainer.callbacks if isinstance(one, SelectionCallback) and not one.standing_by]
    methods = [told for one in ours if (told := _method(one))]
    return (
        ("Module", type(module).__name__),
        ("Rows of the dataset", f"{table.rows:,}"),
        ("Selection", "; ".join(methods) or "none: every row of every batch was trained on alike"),
        ("Steps", f"{trainer.global_step:,}"),
        ("Epochs", f"{trainer.current_epoch}"),
        ("Ranks", f"{trainer.world_size}"),
        ("Device", trainer.strategy.root_device.type),
        ("Date", datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
        ("Versions", f"lightning-select {_own_version()}, torch {torch.__version__}"),
    )


def _own_version() -> str:
    try:
        return version("lightning-select")
    except PackageNotFoundError:
        return "from its source tree"


def _method(callback: SelectionCallback) -> str:
    if isinstance(callback, BatchSelection):
        return f"{name_of(callback.score)} with {name_of(callback.selector)}, keep={callback.keep}"
    if isinstance(callback, LossReweighting):
        return f"weights by {name_of(callback.weighting)}"
    sampler = getattr(callback, "sampler", None)
    return "" if sampler is None else f"rows drawn by {sampler.owner}"


def _note_what_is_missing(report: Any, table: RowTable) -> None:
    """Rows that the page cannot show, told rather than left out without a word."""
    if outside := report.noting.record.outside:
        report.note(
            f"{outside:,} rows of batches had ids that are not in [0, {table.rows:,}) and are left out. Ids are "
            "positions in the dataset, counted from 0."
        )
    read = np.isfinite(table.loss)
    lost = np.flatnonzero((table.chosen > 0) & ~read)
    if len(lost) and read.any():
        first = ", ".join(map(str, lost[:10].tolist()))
        report.note(f"{len(lost):,} rows that were trained on never had a finite loss, the first of them: {first}.")


def _cost(report: Any, trainer: Any, table: RowTable) -> Cost:
    return Cost(
        seconds=report.seconds,
        **time_taken(report),
        steps=trainer.global_step,
        offered=int(table.offered.sum()),
        trained=int(table.chosen.sum()),
    )


def _from(interception: Any) -> Callable[[int], Any]:
    dataset: Any = getattr(interception, "dataset", None)

    def show(row: int) -> Any:
        if isinstance(dataset, IterableDataset):
            return "an iterable dataset cannot be looked up by row: pass show=... to SelectionReport"
        return dataset[row]

    return show
