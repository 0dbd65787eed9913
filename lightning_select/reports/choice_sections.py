"""The sections on which rows were chosen: how often and when, and whether again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_select.reports.area_charts import heat_map
from lightning_select.reports.charts import histogram
from lightning_select.reports.choices import (
    chosen_by_difficulty,
    difficulty,
    overlaps,
    times_chosen,
    weight_by_difficulty,
)
from lightning_select.reports.figures import DataTable, Figure, Section
from lightning_select.reports.row_table import RowTable
from lightning_select.reports.wording import count, number, rows_of, share

__all__ = ["again_section", "chosen_section"]


def chosen_section(table: RowTable) -> Section:
    """How often each row was chosen, and how hard the chosen ones were in each period."""
    anchor, title = "chosen", "Which rows were chosen, and when"
    if not table.chosen.any():
        return Section(anchor, title, ("No row was trained on, so there is nothing to count.",))
    figures, text = [_how_often(table)], []
    group = difficulty(table.loss)
    if group.max(initial=-1) < 0:
        text.append("No loss of any row was read, so rows cannot be told apart by how hard they are.")
    elif not table.periods:
        text.append("No period was recorded, so it is not known when rows were chosen.")
    else:
        figures.append(_when(table))
    weights = weight_by_difficulty(table, group)
    known = weights[np.isfinite(weights)]
    tables = [_weights(weights)] if known.size and not np.allclose(known, known[0], rtol=1e-3) else []
    return Section(anchor, title, tuple(text), tuple(figures), tuple(tables))


def _how_often(table: RowTable) -> Figure:
    never = int(np.count_nonzero(table.offered == 0))
    outside = f" {rows_of(never)} of those at 0 came in no batch at all." if never else ""
    half = np.sort(table.chosen)[::-1].cumsum()
    needed = int(np.searchsorted(half, half[-1] / 2) + 1)
    text = (
        f"A row was trained on {number(table.chosen.mean())} times on average; half of all that was trained on came "
        f"from {share(needed / table.rows)} of the rows.{outside}"
    )
    return histogram("How often rows were chosen", text, times_chosen(table.chosen), "times chosen")


def _when(table: RowTable) -> Figure:
    group = difficulty(table.loss)
    shares = chosen_by_difficulty(table, group)
    text = (
        "Rows are grouped by their mean loss, each group with as many rows; a cell is the share of the group that was "
        "trained on in that period. Even columns mean that difficulty played no part."
    )
    return heat_map(
        "Share of rows chosen, by difficulty", text, shares, _names(len(shares)), table.periods, "part of the run"
    )


def _weights(weights: NDArray[np.float64]) -> DataTable:
    rows = tuple((name, number(value)) for name, value in zip(_names(len(weights)), weights, strict=True))
    return DataTable("Mean weight of the rows while they were trained on, by difficulty", ("", "mean weight"), rows)


def _names(groups: int) -> list[str]:
    names = [f"{place + 1} of {groups}" for place in range(groups)]
    names[0], names[-1] = "easiest", "hardest"
    return names


def again_section(table: RowTable) -> Section:
    """Whether a period chose the rows of the one before it."""
    anchor, title = "overlap", "Were the same rows chosen again?"
    if len(table.periods) < 2:
        return Section(anchor, title, ("The run has fewer than two periods, so there is nothing to compare.",))
    if table.periods[0].startswith("step"):
        return Section(anchor, title, ("The run has one epoch, in which every row has one turn at most.",))
    found = overlaps(table)
    if not found:
        return Section(anchor, title, ("No row was trained on before the last period.",))
    rows = tuple(
        (
            f"{one.first}, then {one.second}",
            count(one.chosen),
            share(one.again / one.chosen),
            share(one.expected),
            f"{one.again / one.chosen / one.expected:.2f}" if one.expected else "unknown",
        )
        for one in found
    )
    head = ("periods", "chosen in the first", "chosen again", "by chance", "ratio")
    text = (
        "Of the rows trained on in one period, the share trained on in the next one too. By chance is what a next "
        "period of the same size would repeat if it drew from all offered rows without looking back. A ratio of 1 is "
        "that of fresh draws, above 1 the same rows again, below 1 that rows take turns."
    )
    return Section(anchor, title, (text,), tables=(DataTable("Rows chosen again", head, rows),))
