"""Which of the recorded reductions belong to the rows of the batch, found out by three small experiments.

Once per fit, on the first active batch, the step runs without a trace on two rows, on the batch, and on the batch
with its rows reversed. Terms that belong to rows change their number with the number of rows and move with the rows;
a penalty on a weight matrix that happens to have as many rows as the batch does neither. The run on two rows keeps its
graph, so it also tells which reductions the loss depends on, with which coefficient, and whether some of the loss
passes through no reduction at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_select.signals.capture import Capture, Record
from lightning_select.signals.graph import hides_a_reduction, mixes
from lightning_select.signals.rows import Layout, candidates

__all__ = ["Run", "StepShape", "shape_of"]

_NOTHING = 1e-6
_CLEARLY = 0.2


@dataclass(frozen=True)
class Run:
    """One run of a module's step under `Capture`.

    Attributes:
        module: Whose step it was.
        capture: What it recorded.
        loss: What it returned.
        rows: How many rows it saw.
        coefficients: ``d loss / d scalar`` of every record, asked for before anything the graph holds was put back.
    """

    module: nn.Module
    capture: Capture
    loss: Tensor
    rows: int
    coefficients: Sequence[Tensor | None]

    @classmethod
    def of(cls, module: nn.Module, capture: Capture, loss: Tensor, rows: int) -> Run:
        """The run that has just ended."""
        return cls(module, capture, loss, rows, capture.coefficients(loss))

    @property
    def names(self) -> tuple[str, ...]:
        """The reductions in order; steps that make the same ones have the same shape."""
        return tuple(record.reduction.name for record in self.capture.records)


@dataclass(frozen=True)
class StepShape:
    """What is known of a step that makes these reductions in this order.

    Attributes:
        names: The reductions.
        layouts: Where the rows are in the terms of each; ``None`` where the terms do not belong to rows.
        connected: Does a gradient of the loss pass through it?
        coefficients: ``d loss / d scalar`` on the first batch, for steps whose graph cannot be asked later.
        left_out: Share of the loss that is not made of row terms, and stays unweighted.
        unseen: Does some of the loss reach the parameters through no recorded reduction?
    """

    names: tuple[str, ...]
    layouts: tuple[Layout | None, ...]
    connected: tuple[bool, ...]
    coefficients: tuple[float | None, ...]
    left_out: float
    unseen: bool

    @property
    def others(self) -> str:
        """What the loss depends on besides the terms of rows, in words."""
        known = [
            name
            for name, layout, reached in zip(self.names, self.layouts, self.connected, strict=True)
            if layout is None and reached
        ]
        return ", ".join([*dict.fromkeys(known), *(["what passes through no reduction"] if self.unseen else [])])

    @property
    def own_rows(self) -> bool:
        """Are the rows of the loss's own making, not those of the batch?"""
        return any(layout.own for layout in self.layouts if layout is not None)

    @property
    def plain(self) -> bool:
        """Is the loss one reduction and nothing else, so that its coefficient is one for ever?"""
        return sum(self.connected) == 1 and 1.0 in self.coefficients

    @property
    def readable(self) -> bool:
        """Is there a reduction of row terms that the loss depends on?"""
        return any(layout is not None for layout in self.layouts)


def shape_of(few: Run, full: Run, reversed_: Run | None) -> StepShape:
    """Compare the three runs."""
    coefficients = few.coefficients
    if len(few.capture.records) == len(full.capture.records):
        connected = [coefficient is not None for coefficient in coefficients]
        small: list[Record | None] = list(few.capture.records)
    else:  # the number of reductions depends on the rows; only what they are called can be compared
        by_name = {r.reduction.name for r, c in zip(few.capture.records, coefficients, strict=True) if c is not None}
        connected = [name in by_name for name in full.names]
        small = [None] * len(full.capture.records)
    mirrored: Sequence[Record | None] = [None] * len(full.capture.records)
    if reversed_ is not None and reversed_.names == full.names:
        mirrored = reversed_.capture.records
    layouts = [
        _layout(record, mirror, little, full.rows, few.rows) if reached else None
        for record, mirror, little, reached in zip(full.capture.records, mirrored, small, connected, strict=True)
    ]
    layouts = _keep_own_only_alone(layouts, full.capture.records)
    mixing = mixes(few.capture.records)
    coefficients = [None if mixed else c for mixed, c in zip(mixing, coefficients, strict=True)]
    numbers = [None if c is None else float(c) for c in full.coefficients]
    seen = [r.scalar for r, mixed in zip(few.capture.records, mixing, strict=True) if r.connected and not mixed]
    unseen = hides_a_reduction(few.loss, seen)
    return StepShape(
        names=full.names,
        layouts=tuple(layouts),
        connected=tuple(connected),
        coefficients=tuple(numbers),
        left_out=_left_out(few, coefficients, layouts, unseen),
        unseen=unseen,
    )


def _layout(full: Record, mirror: Record | None, few: Record | None, rows: int, few_rows: int) -> Layout | None:
    values = full.terms.values
    if not values.dim():
        return None
    possible = list(candidates(values.shape, rows))
    compared = few is not None and few_rows != rows and few.terms.values.dim() == values.dim()
    if few is not None and compared:
        sizes = few.terms.values.shape
        possible = [layout for layout in possible if sizes[layout.axis] * rows == values.shape[layout.axis] * few_rows]
        if not possible:
            return Layout(0, own=True) if sizes[0] != values.shape[0] else None
    if not possible or mirror is None or mirror.terms.values.shape != values.shape:
        return possible[0] if possible else None
    return _by_reversal(values, mirror.terms.values, possible, rows, sure=compared)


def _by_reversal(values: Tensor, mirror: Tensor, possible: list[Layout], rows: int, *, sure: bool) -> Layout | None:
    """The layout under which reversing the rows reverses the terms.

    How far the terms are from their mirror image is compared with how far they are from themselves, so that the answer
    does not depend on their size, nor on how little they differ in an untrained model.
    """
    still = _distance(values, mirror)
    moved = [_distance(_reverse(values, layout, rows), mirror) for layout in possible]
    best = min(moved)
    if max(best, still) <= _NOTHING * _distance(values, torch.zeros_like(values)):
        return possible[0]  # all terms are alike: nothing to tell them apart by, and nothing to lose
    if best <= _CLEARLY * still:
        return next(layout for layout, distance in zip(possible, moved, strict=True) if distance <= 2 * best)
    if still <= _CLEARLY * best:
        return None
    return possible[0] if sure else None  # noise, or rows that act on each other


def _reverse(values: Tensor, layout: Layout, rows: int) -> Tensor:
    values = values.movedim(layout.axis, 0)
    shape = (-1, rows) if layout.inner else (rows, -1)
    split = values.reshape(*shape, *values.shape[1:]).flip(1 if layout.inner else 0)
    return split.reshape(values.shape).movedim(0, layout.axis)


def _distance(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference where both are finite; 0 where that is nowhere."""
    both = one.isfinite() & other.isfinite()
    return float(torch.where(both, one - other, 0.0).abs().sum() / both.sum().clamp(min=1))


def _keep_own_only_alone(layouts: list[Layout | None], records: Sequence[Record]) -> list[Layout | None]:
    """Rows of the loss's own making count only where no reduction has rows of the batch, and all agree on them."""
    if any(layout is not None and not layout.own for layout in layouts):
        return [None if layout is not None and layout.own else layout for layout in layouts]
    sizes = {r.terms.values.shape[0] for r, layout in zip(records, layouts, strict=True) if layout is not None}
    return layouts if len(sizes) <= 1 else [None] * len(layouts)


def _left_out(few: Run, coefficients: Sequence[Tensor | None], layouts: Sequence[Layout | None], unseen: bool) -> float:
    """Share of the loss that is not made of row terms, by value."""
    parts = [
        (float(coefficient.detach() * record.scalar.detach()), layout is not None)
        for record, coefficient, layout in zip(few.capture.records, coefficients, layouts, strict=False)
        if coefficient is not None
    ]
    rest = float(few.loss.detach()) - sum(part for part, _ in parts) if unseen else 0.0
    outside = abs(rest) + sum(abs(part) for part, of_rows in parts if not of_rows)
    total = outside + sum(abs(part) for part, of_rows in parts if of_rows)
    return outside / total if total else 0.0
