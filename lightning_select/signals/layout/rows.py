"""Where the rows of a batch are inside a tensor of terms, and how to fold and spread along them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_select.signals.recording.terms import Terms
from lightning_select.types import Float, Shaped

__all__ = ["Layout", "candidates", "fold", "row_values", "spread"]


@dataclass(frozen=True)
class Layout:
    """How the entries of one axis belong to rows.

    Attributes:
        axis: The axis.
        inner: With several entries per row, whether the row is the fast index (two augmented views stacked on each
            other: entry ``i`` is row ``i % rows``) or the slow one (tokens of a text: entry ``i`` is row ``i // k``).
            ``None``: there was one entry per row, which does not say.
        own: The entries are rows of the loss's own making (a module that re-windows its batch): there is one per
            entry, and they cannot be traced back to rows of the batch.
        masked: The axis is one of a mask, and the entries are those that it let through. ``None``: no mask was seen,
            and one that is seen later must be looked at. ``False``: a mask was seen, and the entries are not its.
    """

    axis: int
    inner: bool | None = None
    own: bool = False
    masked: bool | None = None


def candidates(shape: torch.Size | tuple[int, ...], rows: int) -> Iterator[Layout]:
    """Every layout under which a tensor of this shape could hold ``rows`` rows, the most usual first."""
    if 0 in shape:  # a mask let nothing through
        return
    for axis, size in enumerate(shape):
        if rows and size % rows == 0:
            yield Layout(axis, inner=False if size > rows else None)
            if size > rows:
                yield Layout(axis, inner=True)


def fold(values: Shaped[Tensor, "*shape"], layout: Layout, rows: int) -> Shaped[Tensor, "rows rest"]:
    """All entries of each row, one row a line."""
    values = values.movedim(layout.axis, 0)
    if layout.inner:
        return values.reshape(-1, rows, *values.shape[1:]).transpose(0, 1).reshape(rows, -1)
    return values.reshape(rows, -1)


def spread(per_row: Float[Tensor, "rows"], layout: Layout, axis: int, shape: torch.Size) -> Float[Tensor, "*#shape"]:
    """One number per row, laid out so that it multiplies a tensor of ``shape`` whose rows lie along ``axis``."""
    times = shape[axis] // per_row.shape[0]
    if times == 1 and axis == 0:
        return per_row.reshape(-1, *[1] * (len(shape) - 1))
    entries = per_row.repeat(times) if layout.inner else per_row[:, None].expand(-1, times).reshape(-1)
    return entries.reshape([-1 if position == axis else 1 for position in range(len(shape))])


def row_values(terms: Terms, layout: Layout, rows: int) -> Float[Tensor, "rows"]:
    """The loss of each row, on the scale of the scalar: their mean is the scalar wherever rows are equally long.

    A row is the mean over its own valid terms, so that a long text does not score higher for being long.
    """
    if terms.factor is None and terms.values.shape == (rows,):
        return terms.values
    values = torch.broadcast_to(terms.values * terms.norm, terms.values.shape)
    if terms.valid is None:
        return fold(values, layout, rows).sum(dim=1) * rows
    count = fold(terms.valid.to(values.dtype), layout, rows).sum(dim=1)
    values = torch.where(terms.valid, values, 0.0)
    return fold(values, layout, rows).sum(dim=1) * (count.sum() / count.clamp(min=1.0))
