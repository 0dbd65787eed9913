"""The section on what selection did to the shares of classes and groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_select.reports.area_charts import paired_bars
from lightning_select.reports.figures import DataTable, Figure, Section
from lightning_select.reports.row_table import RowTable
from lightning_select.reports.shares import Share, shares_of
from lightning_select.reports.wording import SPACE, count, rows_of, share

__all__ = ["share_section"]

MOST = 20


def share_section(table: RowTable) -> Section:
    """Shares of the classes and of the groups, before and after."""
    anchor, title = "shares", "Classes and groups: offered and kept"
    if not table.chosen.any():
        return Section(anchor, title, ("No row was trained on, so no shares can be compared.",))
    # A sampler chooses before a batch is made: then what it drew is compared with what the dataset holds.
    drawn = bool(np.array_equal(table.offered, table.chosen))
    figures, text = [], []
    for belongs, what, name in (
        (table.label, "classes", table.class_name),
        (table.group, "groups", table.group_name),
    ):
        found = shares_of(belongs, table.offered, table.chosen, name)
        if len(found) > 1:
            figures.append(_figure(found, what, drawn))
            lost = int(np.count_nonzero(belongs < 0))
            text += [f"{rows_of(lost)} of unknown {what} are left out."] if lost else []
        else:
            text.append(f"{what.capitalize()}: {_why(len(found), what)}")
    return Section(anchor, title, tuple(text), tuple(figures))


def _why(found: int, what: str) -> str:
    return f"all known rows belong to one of the {what}." if found else "none are known for these rows."


def _figure(found: Sequence[Share], what: str, drawn: bool) -> Figure:
    shown = sorted(found, key=lambda one: -abs(_moved(one, drawn)))[:MOST] if len(found) > MOST else found
    before = "in the dataset" if drawn else "offered"
    among = "in the dataset" if drawn else "among the rows offered"
    text = f"Shares of the {what} {among}, and among the rows trained on."
    if len(shown) < len(found):
        text += f" Of {count(len(found))} {what}, the {MOST} whose share changed most are shown."
    title = f"Shares of {what}"
    bars = [(one.name, one.of_rows if drawn else one.of_offered, one.of_kept) for one in shown]
    return paired_bars(title, text, _table(title, shown, drawn), bars, (before, "trained on"))


def _table(title: str, shown: Sequence[Share], drawn: bool) -> DataTable:
    rows = tuple(
        (
            one.name,
            count(one.rows),
            share(one.of_rows),
            share(one.of_offered),
            share(one.of_kept),
            f"{100 * _moved(one, drawn):+.2f}{SPACE}points",
        )
        for one in shown
    )
    return DataTable(title, ("name", "rows", "in the dataset", "offered", "trained on", "change"), rows)


def _moved(one: Share, drawn: bool) -> float:
    return one.of_kept - (one.of_rows if drawn else one.of_offered)
