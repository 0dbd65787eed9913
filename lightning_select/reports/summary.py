"""A report in a few figures and sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_select.reports.report_data import ReportData
from lightning_select.reports.wording import count, rows_of, seconds, share

__all__ = ["KeyFigure", "summary_of"]


@dataclass(frozen=True)
class KeyFigure:
    """A number with its name and a sentence on it."""

    name: str
    value: str
    text: str


def summary_of(report: ReportData) -> tuple[KeyFigure, ...]:
    """Rows, what was chosen, never chosen, likely mislabelled, cost."""
    return (_rows(report), _chosen(report), _never(report), _mislabelled(report), _cost(report))


def _rows(report: ReportData) -> KeyFigure:
    table = report.table
    unseen = int(np.count_nonzero(table.offered == 0))
    if not table.rows:
        text = "The dataset is empty, or its rows are not known."
    elif unseen == table.rows:
        text = "None of them came in a batch."
    elif unseen:
        text = f"{rows_of(unseen)} came in no batch."
    else:
        text = "Each came in at least one batch."
    return KeyFigure("Rows", count(table.rows), text)


def _chosen(report: ReportData) -> KeyFigure:
    offered, chosen = int(report.table.offered.sum()), int(report.table.chosen.sum())
    if not offered:
        return KeyFigure("Trained on", "nothing", "No batch was seen.")
    text = f"Batches held {count(offered)} rows, repeats counted; {count(chosen)} of these were trained on."
    return KeyFigure("Trained on", share(chosen / offered), text)


def _never(report: ReportData) -> KeyFigure:
    table = report.table
    seen = int(np.count_nonzero(table.offered))
    never = int(np.count_nonzero((table.offered > 0) & (table.chosen == 0)))
    text = f"{share(never / seen)} of the rows that came in a batch." if seen else "No row came in a batch."
    return KeyFigure("Never trained on", count(never) if seen else "unknown", text)


def _mislabelled(report: ReportData) -> KeyFigure:
    name, suspects = "Likely mislabelled", report.suspects
    if suspects is None:
        return KeyFigure(name, "unknown", "The run showed too little of labels, logits and losses to tell.")
    if suspects.likely is None:
        return KeyFigure(name, "unknown", f"Ranked by {suspects.basis}.")
    part = f"{share(suspects.likely / report.table.rows)} of the rows, judged" if report.table.rows else "Judged"
    return KeyFigure(name, count(suspects.likely), f"{part} by {suspects.basis}.")


def _cost(report: ReportData) -> KeyFigure:
    cost = report.cost
    if cost.seconds <= 0:
        return KeyFigure("Time on selection", "unknown", "No time was measured.")
    text = f"{seconds(cost.selection_seconds)} of {seconds(cost.seconds)} of training."
    return KeyFigure("Time on selection", share(cost.selection_seconds / cost.seconds), text)
