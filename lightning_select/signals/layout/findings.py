"""Where the rows are in each reduction of a step, by runs on few rows, on all, and on all in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from lightning_select.signals.layout.order import Finding, find_rows
from lightning_select.signals.layout.probe import Run
from lightning_select.signals.layout.rows import Layout
from lightning_select.signals.recording.records import Record
from lightning_select.types import Int

__all__ = ["carried_over", "findings_of", "reached"]


def findings_of(few: Run, full: Run, moved: Run | None, order: Int[Tensor, "rows"]) -> list[Finding | None]:
    """Where the rows are in the terms of each reduction that the loss depends on.

    Args:
        few: The step on fewer rows (or more), with its graph.
        full: The step on the batch.
        moved: The step on the batch with its rows in another order, where it could be had.
        order: That order.
    """
    comparable = moved is not None and moved.names == full.names
    others = moved.capture.records if moved is not None and comparable else [None] * len(full.capture.records)
    same = len(few.capture.records) == len(full.capture.records)
    small = few.capture.records if same else [None] * len(full.capture.records)
    found: list[Finding | None] = []
    for record, other, little, used in zip(full.capture.records, others, small, reached(few, full), strict=True):
        found.append(_finding(record, other, little, (full.rows, few.rows), order) if used else None)
    return found


def reached(few: Run, full: Run) -> list[bool]:
    """Which reductions of ``full`` does the loss depend on?"""
    return carried_over([coefficient is not None for coefficient in few.coefficients], few, full)


def carried_over(marks: Sequence[bool], one: Run, other: Run) -> list[bool]:
    """Marks of the reductions of ``one`` for those of ``other``: by their place, or else by what they are called.

    The number of reductions may depend on the rows; then only names can be compared.
    """
    if len(one.names) == len(other.names):
        return list(marks)
    marked = {name for name, mark in zip(one.names, marks, strict=True) if mark}
    return [name in marked for name in other.names]


def _finding(
    full: Record, moved: Record | None, few: Record | None, sizes: tuple[int, int], order: Int[Tensor, "rows"]
) -> Finding:
    """Where the rows are in the terms, as they are or as they were before a mask left some of them out."""
    rows, few_rows = sizes

    def find(values: Callable[[Record], Tensor | None]) -> Finding:
        whole, little, other = (None if record is None else values(record) for record in (full, few, moved))
        if whole is None:
            return Finding(None)
        fewer = None if little is None else (little, few_rows)
        return find_rows(whole, fewer, None if other is None else (other, order), rows)

    plain, (mask, surely) = find(lambda record: record.terms.values), full.cut
    if mask is None or not surely:
        return plain
    if mask.shape == (rows,):  # the step leaves out whole rows, or might in another batch
        if not mask.cuts_nothing or plain.layout is None:
            return Finding(Layout(0, own=True))
        return replace(plain, layout=replace(plain.layout, masked=False))
    behind = find(lambda record: None if record.cut[0] is None else record.cut[0].restore(record.terms.values))
    if plain.layout is not None and plain.sign == "moved" and behind.sign != "moved":
        return replace(plain, layout=replace(plain.layout, masked=False))
    if behind.layout is None or behind.layout.own:
        return replace(behind, layout=None)
    return replace(behind, layout=replace(behind.layout, masked=True))
