"""The section on what a run and its selection took."""

from __future__ import annotations

from lightning_select.reports.area_charts import stacked_bar
from lightning_select.reports.figures import DataTable, Section
from lightning_select.reports.report_data import Cost
from lightning_select.reports.wording import count, seconds, share

__all__ = ["cost_section"]


def cost_section(cost: Cost) -> Section:
    """Time by what it was spent on, and rows."""
    text, figures = [], []
    if cost.seconds > 0:
        # The parts are measured apart from the whole, and may exceed it by the grain of the clock.
        rest = max(cost.seconds - cost.selection_seconds - cost.report_seconds, 0.0)
        parts = (
            ("training", "bar", rest),
            ("selection", "bar before", cost.selection_seconds),
            ("this record", "bar third", cost.report_seconds),
        )
        text.append("Selection is scoring, choosing, weighing and feeding samplers.")
        figures.append(stacked_bar("Where the time went", "Evaluations are not counted.", parts))
    else:
        text.append("No time was measured, so it is not known what selection cost.")
    rows = (
        ("Optimiser steps", count(cost.steps)),
        ("Rows offered in batches", count(cost.offered)),
        ("Rows trained on", count(cost.trained)),
        ("Share of the offered rows trained on", share(cost.trained / cost.offered) if cost.offered else "unknown"),
        ("Time of training", seconds(cost.seconds)),
        ("Rows trained on per second", count(cost.trained / cost.seconds) if cost.seconds > 0 else "unknown"),
    )
    return Section("cost", "Cost", tuple(text), tuple(figures), (DataTable("Steps, rows and time", ("", "run"), rows),))
