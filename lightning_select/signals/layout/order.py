"""Where the rows are in the terms of a reduction, by what the terms do when the rows of the batch change places.

Terms that belong to rows take their places with them. How far the terms are from where their rows went is compared with
how far they are from where they were, so that the answer does not depend on their size, nor on how little they differ
in an untrained model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from lightning_select.signals.layout.rows import Layout, candidates
from lightning_select.types import Float, Int

__all__ = ["Finding", "find_rows"]

_NOTHING = 1e-6
_EXACTLY = 1e-3
_CLEARLY = 0.2


@dataclass(frozen=True)
class Finding:
    """Where the rows are, and how that shows.

    Attributes:
        layout: Where the rows are; ``None`` where the terms do not belong to rows.
        sign: What the terms did when the rows changed places:

            * ``moved``: they went with their rows (``nearly``: all but a little);
            * ``alike``: they are all the same, so there is nothing to tell them apart by;
            * ``still``: they stayed, although there are as many of them as rows (``sorted`` by something, or noise);
            * ``pairs``: there is one for every two rows, which went with both of them;
            * ``shuffled``: they are the very same terms, but neither where they were nor where the rows went;
            * ``changed``: they are other terms (noise of each place, or rows that act on each other);
            * ``unknown``: there was nothing to compare.
        ambiguous: Are other layouts possible that ``sign`` does not exclude?
    """

    layout: Layout | None
    sign: Literal["moved", "nearly", "alike", "still", "pairs", "shuffled", "changed", "unknown"] = "unknown"
    ambiguous: bool = False


def find_rows(
    values: Float[Tensor, "*shape"],
    few: tuple[Float[Tensor, "*fewer"], int] | None,
    moved: tuple[Float[Tensor, "*other"], Int[Tensor, "rows"]] | None,
    rows: int,
) -> Finding:
    """Where the rows are in ``values``, the terms of a batch of ``rows`` rows.

    Args:
        values: The terms.
        few: The terms of a batch of another number of rows, and that number.
        moved: The terms of the batch with its rows in another order, and that order.
        rows: Number of rows.
    """
    if not values.dim():
        return Finding(None)
    possible = list(candidates(values.shape, rows))
    compared = few is not None and few[1] != rows and few[0].dim() == values.dim()
    if few is not None and compared:
        sizes, count = few[0].shape, few[1]
        possible = [layout for layout in possible if sizes[layout.axis] * rows == values.shape[layout.axis] * count]
        if not possible:
            return Finding(Layout(0, own=True) if sizes[0] != values.shape[0] else None)
    other = moved is not None and moved[0].shape != values.shape
    if not possible or (other and not compared):
        return Finding(None)
    if moved is None or other:
        return Finding(possible[0], ambiguous=len(possible) > 1)
    return _compare(values, *moved, possible, sure=compared)


def _compare(
    values: Tensor, moved: Tensor, order: Int[Tensor, "rows"], possible: list[Layout], *, sure: bool
) -> Finding:
    stayed = _distance(values, moved)
    went = [_distance(_reorder(values, layout, order), moved) for layout in possible]
    best = min(went)
    if max(best, stayed) <= _NOTHING * _distance(values, torch.zeros_like(values)):
        return Finding(possible[0], "alike", ambiguous=len(possible) > 1)
    layout = next(layout for layout, distance in zip(possible, went, strict=True) if distance <= 2 * best)
    if best <= _EXACTLY * stayed:
        return Finding(layout, "moved")
    if stayed <= _EXACTLY * best:
        return Finding(None, "still" if sure else "changed")
    if _of_pairs(values, moved, order) <= _EXACTLY * min(best, stayed):
        return Finding(None, "pairs")
    # Two samples of the same noise are the more alike, sorted, the more terms there are.
    same = _EXACTLY / math.sqrt(values.numel()) * min(best, stayed)
    shuffled = _distance(_sorted(values), _sorted(moved)) <= same
    if best <= _CLEARLY * stayed:
        return Finding(layout, "shuffled" if shuffled else "nearly")
    known = sure and stayed > _CLEARLY * best
    return Finding(possible[0] if known else None, "shuffled" if shuffled else "changed")


def _reorder(values: Tensor, layout: Layout, order: Int[Tensor, "rows"]) -> Tensor:
    rows = order.shape[0]
    values = values.movedim(layout.axis, 0)
    shape = (-1, rows) if layout.inner else (rows, -1)
    split = values.reshape(*shape, *values.shape[1:]).index_select(1 if layout.inner else 0, order)
    return split.reshape(values.shape).movedim(0, layout.axis)


def _of_pairs(values: Tensor, moved: Tensor, order: Int[Tensor, "rows"]) -> float:
    """How far the terms are from where both rows of a pair went; infinitely far where none are of pairs."""
    axes = [axis for axis, size in enumerate(values.shape) if size == order.shape[0]]
    swapped = (values.index_select(one, order).index_select(two, order) for one, two in combinations(axes, 2))
    return min((_distance(both, moved) for both in swapped), default=math.inf)


def _sorted(values: Tensor) -> Tensor:
    return values.nan_to_num().flatten().sort().values


def _distance(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference where both are finite; 0 where that is nowhere."""
    both = one.isfinite() & other.isfinite()
    return float(torch.where(both, one - other, 0.0).abs().sum() / both.sum().clamp(min=1))
