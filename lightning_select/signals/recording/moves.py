"""What moved the numbers of a layer's output about, and the same done to the layer's input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_select.signals.head.lazy_logits import LazyLogits, UnfollowedError
from lightning_select.signals.head.terms import Linear, Part
from lightning_select.signals.recording.masks import Cut
from lightning_select.torch_compat import version_of
from lightning_select.types import Float, Int

__all__ = ["Masked", "Move", "OverClasses", "moved", "moved_single"]


@dataclass(frozen=True, eq=False)
class Move:
    """A call that gave the same numbers elsewhere; ``stamps``: its other tensors, and their writes so far."""

    func: Callable[..., Tensor]
    rest: Sequence[Any]
    kwargs: Mapping[str, Any]
    stamps: Sequence[tuple[Tensor, int]]

    @classmethod
    def of(cls, func: Callable[..., Tensor], rest: Sequence[Any], kwargs: Mapping[str, Any]) -> Move:
        """The call of ``func`` on logits, and on ``rest`` behind them."""
        stamps = [(value, version_of(value)) for value in _tensors_of((*rest, *kwargs.values()))]
        return cls(func, rest, kwargs, stamps)

    def on(self, values: Tensor) -> Tensor:
        """The same call on another tensor.

        Raises:
            UnfollowedError: What said where to was written to since.
        """
        if any(version_of(value) != version for value, version in self.stamps):
            raise UnfollowedError("a write to an index")
        return self.func(values, *self.rest, **self.kwargs)


@dataclass(frozen=True, eq=False)
class Masked:
    """A mask over the first axes let some entries through."""

    cut: Cut

    def on(self, values: Tensor) -> Tensor:
        """The same entries of another tensor."""
        if self.cut.is_stale:
            raise UnfollowedError("a write to a mask")
        axes = len(self.cut.shape)
        return values.reshape(-1, *values.shape[axes:]).index_select(0, self.cut.positions)


@dataclass(frozen=True, eq=False)
class OverClasses:
    """What was taken along an axis that must be the one of the classes."""

    dim: int


def moved(given: Float[Tensor, "*shape features"], weight: Tensor, moves: Sequence[Any]) -> tuple[Tensor, int] | None:
    """The layer's input where its output was moved to, features last, and the axis where the classes are."""
    if not moves:
        return given, given.dim() - 1
    shape = (*given.shape[:-1], weight.shape[0])
    logits = LazyLogits(Linear((Part(given, weight),)), shape, given.dim() - 1, given.dtype, given.device)
    for move in moves:
        if isinstance(move, OverClasses):
            if move.dim % logits.dim() != logits.axis:
                return None
            continue
        try:
            logits = _through_mask(logits, move) if isinstance(move, Masked) else move.on(logits)
        except UnfollowedError:
            return None
    if not isinstance(logits, LazyLogits) or not isinstance(logits.term, Linear):
        return None
    return logits.term.parts[0].hidden.movedim(logits.axis, -1), logits.axis


def _through_mask(logits: LazyLogits, mask: Masked) -> LazyLogits:
    """Without the wait for the device that an index by a mask would be."""
    axes = len(mask.cut.shape)
    if logits.axis < axes:
        raise UnfollowedError("a mask over classes")
    shape = (mask.cut.size, *logits.shape[axes:])
    return LazyLogits(logits.term.carry(mask.on), shape, logits.axis - axes + 1, logits.dtype, logits.device)


def moved_single(given: Float[Tensor, "*shape features"], moves: Iterable[Any]) -> Tensor | None:
    """The same for a layer with one output, whose axis may be gone; features behind the axes that are left."""
    places: Int[Tensor, "*shape"] = torch.arange(given.shape[:-1].numel(), device=given.device)
    places = places.reshape(*given.shape[:-1], 1)
    for move in moves:
        if isinstance(move, OverClasses):
            return None
        try:
            places = move.on(places)
        except UnfollowedError:
            return None
    return given.reshape(-1, given.shape[-1]).index_select(0, places.reshape(-1)).reshape(*places.shape, -1)


def _tensors_of(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_of(value)
