"""Which rows a run chose, how often, how hard they were, and whether it chose the same ones again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lightning_select.reports.charts import Bin
from lightning_select.reports.row_table import RowTable

__all__ = ["Overlap", "chosen_by_difficulty", "difficulty", "overlaps", "times_chosen", "weight_by_difficulty"]

GROUPS = 10
MOST_BINS = 24


@dataclass(frozen=True)
class Overlap:
    """Rows chosen in two periods.

    Attributes:
        first: Name of the earlier period.
        second: Name of the later one.
        chosen: Rows chosen in the earlier one.
        again: Those of them that were chosen in the later one too.
        expected: Share of them that would have been, had the later period drawn as many rows as it did, regardless of
            the earlier one, from all rows that the run was offered.
    """

    first: str
    second: str
    chosen: int
    again: int
    expected: float


def times_chosen(chosen: NDArray[np.int64]) -> tuple[Bin, ...]:
    """How many rows were chosen how often: never, then bins of equal width up to the 99th percentile, then the rest.

    Args:
        chosen: Times that each row was chosen, shape (rows,); at least one row.
    """
    longest = int(chosen.max())
    usual = longest if longest <= MOST_BINS else max(int(np.quantile(chosen, 0.99)), 1)
    width = -(-usual // MOST_BINS) or 1
    starts = [0, *range(1, usual + 1, width)]
    stops = [*(start - 1 for start in starts[1:]), usual + (-usual) % width if usual else 0]
    if longest > stops[-1]:
        starts, stops = [*starts, stops[-1] + 1], [*stops, longest]
    places = np.searchsorted(np.array(starts), chosen, side="right") - 1
    rows = np.bincount(places, minlength=len(starts))
    return tuple(Bin(low, high, int(many)) for low, high, many in zip(starts, stops, rows, strict=True))


def difficulty(loss: NDArray[np.floating]) -> NDArray[np.int64]:
    """Tenth of the rows to which each belongs by its mean loss, from 0, the easiest; -1 where the loss is unknown.

    Fewer than ten rows make as many groups as there are rows. Equal losses are told apart by the number of the row.
    """
    group = np.full(len(loss), -1, np.int64)
    known = np.flatnonzero(np.isfinite(loss))
    order = known[np.argsort(loss[known], kind="stable")]
    group[order] = np.arange(len(order)) * min(GROUPS, len(order)) // max(len(order), 1)
    return group


def chosen_by_difficulty(table: RowTable, group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the rows of each group that was chosen in each period, shape (groups, periods)."""
    groups = int(group.max(initial=-1)) + 1
    shares = np.full((groups, len(table.periods)), np.nan)
    for number in range(groups):
        shares[number] = (table.chosen_in[group == number] > 0).mean(axis=0)
    return shares


def weight_by_difficulty(table: RowTable, group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean weight of the rows of each group that have one, shape (groups,); NaN where none has."""
    known = np.isfinite(table.weight) & (group >= 0)
    groups = int(group.max(initial=-1)) + 1
    sums = np.bincount(group[known], weights=table.weight[known].astype(np.float64), minlength=groups)
    rows = np.bincount(group[known], minlength=groups)
    return np.where(rows > 0, sums / np.maximum(rows, 1), np.nan)


def overlaps(table: RowTable) -> tuple[Overlap, ...]:
    """Each period that chose anything, beside the next one."""
    found = []
    offered = max(int(np.count_nonzero(table.offered)), 1)
    columns = [np.ascontiguousarray(table.chosen_in[:, place]) > 0 for place in range(len(table.periods))]
    for place, (first, second) in enumerate(pairwise(columns)):
        chosen = int(first.sum())
        if chosen:
            names = table.periods[place : place + 2]
            again, expected = int((first & second).sum()), int(second.sum()) / offered
            found.append(Overlap(names[0], names[1], chosen, again, expected))
    return tuple(found)
