"""Which entries a boolean mask let through, so that the terms of a loss of ``logits[mask]`` find their rows.

Padding is often cut away before the loss: by a mask, by ``masked_select``, by the positions that ``nonzero`` found, or
by packing a padded sequence. How many entries are left depends on the data, so where the rows are cannot be read off
the shape of the terms. `Capture` notes each such cut; a `Cut` puts entries back to where they were taken from. All of
this stays on the device: the number of entries is known from the shape of what the step itself cut out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_select.signals.recording.terms import Terms
from lightning_select.torch_compat import PACK_PADDED, version_of
from lightning_select.types import Bool, Int, Shaped

__all__ = ["CUTTERS", "Cut", "Cuts", "cuts_by_mask", "find_cut"]

_SELECTS = frozenset({torch.masked_select, Tensor.masked_select})
_FINDS = frozenset({torch.nonzero, Tensor.nonzero, torch.argwhere, Tensor.argwhere, torch.where})
_INDEXES = frozenset({Tensor.__getitem__})
CUTTERS: frozenset[Any] = frozenset({Tensor.index_select, PACK_PADDED}) | _INDEXES | _SELECTS | _FINDS
"""Functions whose result may hold some entries of a tensor and not the others."""

_KEPT = 32
"""Of so many cuts, the latest ones, a step is remembered."""


class Cut:
    """Some entries of a tensor, in a row.

    Args:
        shape: Shape of what was cut, as far as a mask reaches: its first axes.
        size: How many entries were let through.
        find: Where in ``shape``, flattened, each entry comes from; asked for at most once, and late.
        output: What the call returned.
        mask: The mask; a mask that is changed afterwards no longer says what it let through.
    """

    def __init__(
        self,
        shape: Sequence[int],
        size: int,
        find: Callable[[], Int[Tensor, "size"]],
        output: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.size = size
        self._find = find
        self._output = None if output is None else weakref.ref(output)
        self._mask = None if mask is None or mask.is_inference() else (mask, version_of(mask))

    @property
    def is_stale(self) -> bool:
        """Was the mask changed since?"""
        return self._mask is not None and version_of(self._mask[0]) != self._mask[1]

    @property
    def cuts_nothing(self) -> bool:
        """Were all entries let through?"""
        return self.size == torch.Size(self.shape).numel()

    @cached_property
    def positions(self) -> Int[Tensor, "size"]:
        """Where in ``shape``, flattened, each entry comes from."""
        with torch.no_grad():
            return self._find()

    @cached_property
    def _entries(self) -> Int[Tensor, "numel"]:
        """Which entry each position gave, and -1 where it gave none."""
        numbers = torch.arange(self.size, device=self.positions.device)
        return numbers.new_full((torch.Size(self.shape).numel(),), -1).scatter(0, self.positions, numbers)

    @property
    def inside(self) -> Bool[Tensor, "*shape"]:
        """Which positions were let through."""
        return (self._entries >= 0).reshape(self.shape)

    def restore(self, values: Shaped[Tensor, "size *rest"]) -> Shaped[Tensor, "*all"]:
        """The entries where they were before the cut, and zero elsewhere."""
        rest = values.shape[1:]
        if not self.size:
            return values.new_zeros((*self.shape, *rest))
        found = values.index_select(0, self._entries.clamp(min=0)).reshape(*self.shape, *rest)
        return found.masked_fill(~self.inside.reshape(*self.shape, *[1] * len(rest)), 0)

    def restore_terms(self, terms: Terms) -> Terms:
        """The terms where they were before the cut; those that were cut away do not count."""
        if not self.size:
            return Terms(self.restore(terms.values), 1.0, self.restore(terms.values.bool()))
        values = self.restore(torch.broadcast_to(terms.values * terms.norm, terms.values.shape))
        valid = torch.ones_like(terms.values, dtype=torch.bool) if terms.valid is None else terms.valid
        return Terms(values, 1.0, self.restore(torch.broadcast_to(valid, terms.values.shape)))

    def take(self, values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "size"]:
        """What the cut would have let through of a tensor of ``shape``."""
        return values.reshape(-1).index_select(0, self.positions)


class Cuts:
    """The cuts that a step made so far."""

    def __init__(self) -> None:
        self.noted: tuple[Cut, ...] = ()
        self._sorted: tuple[weakref.ref[Tensor], Tensor] | None = None

    def note(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        """Note one call of one of `CUTTERS`."""
        if func == Tensor.index_select:  # so does packing bring the rows into the order of their lengths
            index = args[2] if len(args) > 2 else kwargs["index"]
            self._sorted = weakref.ref(output), index
            return
        if func == PACK_PADDED:
            order = self._sorted[1] if self._sorted is not None and self._sorted[0]() is args[0] else None
            cut: Cut | None = _packed(args, output[0], order)
        else:
            cut = _masked(func, args, kwargs, output)
        if cut is not None:
            self.noted = (*self.noted[1 - _KEPT :], cut)


def find_cut(cuts: Iterable[Cut], arguments: Mapping[str, Any], size: int) -> tuple[Cut | None, bool]:
    """The cut that left ``size`` terms to a reduction of ``arguments``, and whether that is sure.

    It is sure where an argument is what the cut returned, or where the cut let just so many entries through and held
    others back. A mask that holds nothing back says nothing about the terms.
    """
    fitting = [cut for cut in cuts if cut.size == size and not cut.is_stale]
    for cut in reversed(fitting):
        output = None if cut._output is None else cut._output()
        if output is not None and any(value is output for value in arguments.values()):
            return cut, True
    cutting = [cut for cut in fitting if not cut.cuts_nothing]
    return next(reversed(cutting or fitting), None), bool(cutting)


def cuts_by_mask(func: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Will the size of what this call returns depend on a mask? A compiled graph breaks at such a call anyway."""
    if func in _INDEXES:
        index = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
    return func in _SELECTS or (func in _FINDS and (func is not torch.where or len(args) == 1))


def _masked(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> Cut | None:
    """What a call cut out by a mask, or ``None`` where it did nothing of the kind (``x[0]``, ``x[index]``)."""
    given: Any = args[0] if args else kwargs.get("input")
    if func in _FINDS:
        found = output[0] if isinstance(output, tuple) and output else output
        asked = len(args) + len(kwargs.keys() - {"as_tuple"}) == 1 and isinstance(given, Tensor) and given.dim()
        return _by_mask(given, given.shape, found, noted=False) if asked and isinstance(found, Tensor) else None
    if func in _SELECTS:
        mask = args[1] if len(args) > 1 else kwargs["mask"]
        return _by_mask(mask, torch.broadcast_shapes(given.shape, mask.shape), output)  # type: ignore[no-untyped-call]
    index = args[1] if len(args) > 1 else None
    mask, *others = index if isinstance(index, tuple) and index else (index,)
    if not _is_mask(mask) or any(_is_mask(other) for other in others) or not output.dim():
        return None
    return _by_mask(mask, mask.shape, output)


def _packed(args: Sequence[Any], data: Tensor, order: Int[Tensor, "rows"] | None) -> Cut:
    """What packing left of a padded sequence whose rows stand in ``order``. Time goes first in the packed data."""
    padded, lengths, batch_first = args
    rows, steps = (padded.shape[0], padded.shape[1]) if batch_first else (padded.shape[1], padded.shape[0])
    device = data.device

    def find() -> Int[Tensor, "size"]:
        row = torch.arange(rows, device=device) if order is None else order.to(device)
        places = torch.arange(steps, device=device) * rows + row[:, None]
        found: Tensor = PACK_PADDED(places, lengths, True)[0]
        return found

    return Cut((steps, rows), data.shape[0], find, data)


def _by_mask(mask: Tensor, shape: Sequence[int], output: Tensor, *, noted: bool = True) -> Cut:
    size, device = output.shape[0], output.device

    def find() -> Int[Tensor, "size"]:
        there = (mask != 0).to(device, non_blocking=True)  # a mask may lie on the host
        passed = torch.broadcast_to(there, tuple(shape)).reshape(-1).cumsum(0)
        wanted = torch.arange(1, size + 1, device=passed.device)
        return torch.searchsorted(passed, wanted).clamp(max=max(passed.shape[0] - 1, 0))

    return Cut(shape, size, find, output if noted else None, mask)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dim() > 0 and index.dtype in (torch.bool, torch.uint8)
