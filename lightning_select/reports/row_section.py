"""The section that shows rows: likely mislabelled, hardest, never chosen, forgotten."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lightning_select.reports.figures import Card, RowList, Section
from lightning_select.reports.previews import Preview, preview_row
from lightning_select.reports.report_data import ReportData
from lightning_select.reports.row_table import RowTable
from lightning_select.reports.suspects import Suspects
from lightning_select.reports.wording import count, number, rows_of, share

__all__ = ["row_section"]

SUSPECTS, OTHERS = 40, 20
AT_ONCE = 8
"""So many cards of a list are in view; the rest are behind a button."""
Look = Callable[[int], Preview]


def row_section(report: ReportData) -> Section:
    """Rows as what they are, with what the run knows of them."""

    @cache
    def look(row: int) -> Preview:
        return preview_row(report.show, row)

    lists = (
        _suspects(report.suspects, report.table, look),
        _hardest(report.table, look),
        _never(report.table, look),
        _forgotten(report.table, look),
    )
    text = "A list is not a verdict: rows are hard, left out or forgotten for good reasons too. Look before you delete."
    return Section("rows", "Rows to look at", (text,), lists=lists)


def _suspects(suspects: Suspects | None, table: RowTable, look: Look) -> RowList:
    anchor, title = "mislabelled", "Likely mislabelled"
    if suspects is None:
        return RowList(anchor, title, "Nothing can be said: the run showed too little of labels, logits and losses.")
    if suspects.likely is None:
        return RowList(anchor, title, f"It is not known how many are: {suspects.basis}. All are in rows.csv.")
    if not suspects.likely:
        return RowList(anchor, title, f"No row stands out. Judged by {suspects.basis}.")
    cards = []
    for place, row in enumerate(suspects.ids[: min(SUSPECTS, suspects.likely)].tolist()):
        evidence = suspects.evidence[place] if place < len(suspects.evidence) else ""
        facts = (("suspicion", number(suspects.scores[place])), *_facts(table, row))
        cards.append(Card(row, look(row), _relabelled(table, row), evidence, facts))
    text = (
        f"{rows_of(suspects.likely)} look mislabelled, the most suspicious first. Judged by {suspects.basis}. After "
        f"the arrow is the class that the model preferred."
    )
    if suspects.likely > len(cards):
        text += f" The first {len(cards)} are shown, all are in rows.csv."
    return RowList(anchor, title, text, tuple(cards[:AT_ONCE]), tuple(cards[AT_ONCE:]))


def _hardest(table: RowTable, look: Look) -> RowList:
    rows = _largest(np.isfinite(table.loss), table.loss)
    found = "The rows with the largest mean losses."
    return _listed("hardest", "Hardest", rows, found, "No loss of any row was read.", table, look)


def _never(table: RowTable, look: Look) -> RowList:
    never = (table.offered > 0) & (table.chosen == 0)
    scored = bool(np.isfinite(table.score[never]).any())
    first = "score" if scored else "loss"
    rows = _largest(never, table.score if scored else table.loss)
    found = f"{rows_of(never.sum())} came in batches and were never trained on, here by the largest mean {first}."
    seen = bool(table.offered.any())
    empty = "Every row that was offered was trained on." if seen else "No row was offered."
    return _listed("never", "Never chosen", rows, found, empty, table, look)


def _forgotten(table: RowTable, look: Look) -> RowList:
    forgotten = table.forgettings > 0
    rows = _largest(forgotten, table.forgettings, table.loss)
    found = f"{rows_of(forgotten.sum())} were classified right at one visit and wrong at the next, here the most often."
    known = bool((table.visits > 0).any())
    empty = "No row was forgotten." if known else "It is not known which rows the model classified right."
    return _listed("forgotten", "Forgotten", rows, found, empty, table, look)


def _listed(anchor: str, title: str, rows: list[int], found: str, empty: str, table: RowTable, look: Look) -> RowList:
    cards = tuple(Card(row, look(row), _label(table, row), "", _facts(table, row)) for row in rows)
    return RowList(anchor, title, found if rows else empty, cards[:AT_ONCE], cards[AT_ONCE:])


def _largest(among: NDArray[np.bool_], *keys: NDArray[np.generic]) -> list[int]:
    """Rows with the largest values of the first key, then of the next; unknown values last, equal ones by number."""
    rows = np.flatnonzero(among)
    order = np.lexsort([-key[rows].astype(np.float64) for key in reversed(keys)])
    return rows[order][:OTHERS].tolist()


def _label(table: RowTable, row: int) -> str:
    return table.class_name(int(table.label[row])) if table.label[row] >= 0 else ""


def _relabelled(table: RowTable, row: int) -> str:
    suggestion = int(table.suggestion[row])
    arrow = f" → {table.class_name(suggestion)}" if suggestion >= 0 else ""
    return f"{table.class_name(int(table.label[row]))}{arrow}"


def _facts(table: RowTable, row: int) -> tuple[tuple[str, str], ...]:
    """What is known of a row, in the order of its weight."""
    offered, chosen, visits = int(table.offered[row]), int(table.chosen[row]), int(table.visits[row])
    trained = count(chosen) if offered == chosen else f"{count(chosen)} of {count(offered)}"
    columns = (("loss", table.loss), ("score", table.score), ("margin", table.margin))
    known = [(name, number(column[row])) for name, column in columns if np.isfinite(column[row])]
    right = [("right", f"{share(table.agreement[row])} of {count(visits)}")] if visits else []
    forgotten = [("forgotten", count(table.forgettings[row]))] if table.forgettings[row] else []
    return (*known, *right, *forgotten, ("trained on", trained))
