"""A stand-in for the output of a linear layer: it has the shape of the logits and none of their numbers.

A training step may do a good deal with its logits before the loss sees them: cut off the last position, flatten tokens,
move the classes to another axis, change the dtype, divide by a temperature, cap them softly. `LazyLogits` goes through
all of that; what moves tokens about is done to the hidden states instead, and what changes the numbers is noted
(`head.terms`). Whatever cannot be followed raises `UnfollowedError`, and the caller runs the step in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_select.signals.head.terms import Dense, Linear, Mapped, PerClass, PerToken, Term
from lightning_select.torch_compat import NO_TORCH_FUNCTION, overload_name, schema_of, wrapper_subclass

__all__ = ["LazyLogits", "UnfollowedError"]

aten = torch.ops.aten

_SAME = frozenset({aten.clone, aten._to_copy, aten.detach, aten.alias, aten.contiguous, aten.lift_fresh})
"""Leave every number as it is, up to the rounding to another dtype, which is not followed."""

_COPIES = frozenset({aten.clone, aten._to_copy})
"""Of those, the ones whose result has memory of its own."""

_RESHAPES = frozenset({aten.view, aten._unsafe_view, aten.reshape})
_SWAPS = frozenset({aten.transpose, aten.permute, aten.t})
_PICKS = frozenset({aten.slice, aten.select, aten.index_select, aten.index})
_FACTORS = frozenset({aten.mul, aten.div})


class UnfollowedError(BaseException):
    """The step did something to its logits that needs their numbers. No ``except Exception`` of a step may catch it."""


class LazyLogits(Tensor):
    """Logits that are not there.

    Args:
        term: What they are made of, axes as they are to be seen; where the classes are, inputs have their features.
        shape: Their shape.
        axis: The axis of the classes.
        dtype: What they would be.
        device: Where they would be.

    Attributes:
        shared: Is there a view of them, or are they one?
        origin: Which layer made them, and which tokens were chosen since.
    """

    term: Term
    axis: int
    shared: bool
    origin: tuple[Any, ...]

    @staticmethod
    def __new__(  # noqa: D102  # the class says it
        cls, term: Term, shape: Sequence[int], axis: int, dtype: torch.dtype, device: torch.device
    ) -> LazyLogits:
        made: LazyLogits = wrapper_subclass(cls, tuple(shape), dtype=dtype, device=device)
        made.term, made.axis, made.shared, made.origin = term, axis, False, ()
        return made

    def __init__(self, *args: Any) -> None:
        """Everything is done in ``__new__``."""

    __torch_function__ = NO_TORCH_FUNCTION

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation on the stand-in."""
        kwargs = kwargs or {}
        packet = func.overloadpacket
        first = args[0] if args else None
        if isinstance(first, LazyLogits):
            if packet in _SAME:
                return first._with(first.term, first.shape, first.axis, kwargs.get("dtype"))._beside(first, packet)
            if packet in _RESHAPES:
                return first._reshaped(func, args[1:])._beside(first, packet)
            if packet in _SWAPS:
                return first._swapped(func, args[1:])._beside(first, packet)
            if packet in _PICKS:
                return first._picked(func, args[1:], kwargs)._beside(first, packet)
        if torch.Tag.pointwise in func.tags and "out" not in kwargs:
            return _mapped(func, args, kwargs)
        raise UnfollowedError(str(packet))

    def _beside(self, other: LazyLogits, packet: Any) -> LazyLogits:
        """Where one is a view of the other, a change of either would be one of both; that is not followed."""
        if packet not in _COPIES:
            self.shared = other.shared = True
        return self

    def _with(self, term: Term, shape: Sequence[int], axis: int, dtype: torch.dtype | None = None) -> LazyLogits:
        made = LazyLogits(term, shape, axis, dtype or self.dtype, self.device)
        made.origin = self.origin
        return made

    def _reshaped(self, func: Callable[..., Tensor], args: Sequence[Any]) -> LazyLogits:
        shape = func(torch.empty(self.shape, device="meta"), *args).shape
        if self.axis != self.dim() - 1 or shape[-1:] != self.shape[-1:]:
            raise UnfollowedError(f"a change of shape from {tuple(self.shape)} to {tuple(shape)}")
        term = self.term.carry(lambda values: values.reshape(*shape[:-1], values.shape[-1]))
        return self._with(term, shape, len(shape) - 1)

    def _swapped(self, func: Callable[..., Tensor], args: Sequence[Any]) -> LazyLogits:
        sizes = torch.empty([*range(2, 2 + self.dim())], device="meta")  # tell the axes by their sizes
        order = [size - 2 for size in func(sizes, *args).shape]
        term = self.term.carry(lambda values: func(values, *args))
        return self._with(term, [self.shape[old] for old in order], order.index(self.axis))

    def _picked(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> LazyLogits:
        """Some tokens, all classes."""
        if func.overloadpacket is aten.index:
            # A mask takes as many axes as it has.
            taken = [1 if i is None or i.dtype not in (torch.bool, torch.uint8) else i.dim() for i in args[0]]
            last = max((sum(taken[: n + 1]) for n, index in enumerate(args[0]) if index is not None), default=0)
            touched = last > self.axis
        else:
            touched = (args[0] if args else kwargs.get("dim", 0)) % self.dim() == self.axis
        if touched:
            if func.overloadpacket is aten.slice and _takes_all(*args[1:], size=self.shape[self.axis]):
                return self._with(self.term, self.shape, self.axis)  # older torch wants a view to be another tensor
            raise UnfollowedError("a choice of classes")
        sizes = [1 if axis == self.axis else size for axis, size in enumerate(self.shape)]
        shape = list(func(torch.zeros((), device=self.device).expand(sizes), *args, **kwargs).shape)
        axis = len(shape) - (self.dim() - self.axis)
        shape[axis] = self.shape[self.axis]
        picked = self._with(self.term.carry(lambda values: func(values, *args, **kwargs)), shape, axis)
        picked.origin = (*self.origin, func.overloadpacket, _words(args), _words(kwargs.values()))
        return picked

    def _combined(self, packet: Any, term: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Term | None:
        """The result where it is linear in the hidden states again."""
        others = [value for value in args if value is not term]
        if not isinstance(term, Linear) or kwargs or len(others) != len(args) - 1:
            return None
        if packet is aten.neg:
            return term.scaled(-1.0)
        if len(others) != 1 or (args[0] is not term and packet not in (aten.mul, aten.add)):
            return None
        other = others[0].values if isinstance(others[0], PerToken) else others[0]
        if packet in _FACTORS and isinstance(other, (int, float, Tensor)):
            return term.scaled(other if packet is aten.mul else 1.0 / other)
        sign = {aten.add: 1.0, aten.sub: -1.0}.get(packet)
        if sign is not None and isinstance(other, PerClass) and other.values.is_floating_point():
            return term.shifted(sign * other.values, self.axis)
        if sign is not None and isinstance(other, Linear):
            return Linear((*term.parts, *(other if sign > 0 else other.scaled(sign)).parts))
        return None


def _mapped(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> LazyLogits:
    """An operation entry by entry, in place or not."""
    first = next(value for value in args if isinstance(value, LazyLogits))
    result = func(*(_on_meta(value) for value in args), **kwargs)
    if result.shape != first.shape:
        raise UnfollowedError(f"an operation of shape {tuple(result.shape)} on logits of shape {tuple(first.shape)}")
    in_place = schema_of(func).is_mutable
    if in_place:
        func = getattr(getattr(aten, func.overloadpacket.__name__[:-1], None), overload_name(func), None)
        if func is None or args[0] is not first or first.shared:
            raise UnfollowedError("a change in place")
    terms = tuple(_as_term(value, first) for value in args)
    term = first._combined(func.overloadpacket, first.term, terms, kwargs) or Mapped(func, terms, kwargs)
    if not in_place:
        return first._with(term, first.shape, first.axis, result.dtype)
    first.term = term
    return first


def _as_term(value: Any, like: LazyLogits) -> Any:
    """An operand as what it is to the logits; numbers stay as they are."""
    if isinstance(value, LazyLogits):
        if value.shape != like.shape or value.axis != like.axis:
            raise UnfollowedError("logits of different shapes")
        return value.term
    if not isinstance(value, Tensor):
        return value
    value = value.detach().clone()  # it is used later, when it may have been changed or put back
    if value.numel() == 1:
        return value.reshape(())
    shape = (1,) * (like.dim() - value.dim()) + tuple(value.shape)
    if shape[like.axis] == 1:
        full = [1 if axis == like.axis else size for axis, size in enumerate(like.shape)]
        return PerToken(value.expand(full))
    return PerClass(value.reshape(-1)) if value.numel() == like.shape[like.axis] else Dense(value.expand(like.shape))


def _words(values: Iterable[Any]) -> tuple[Any, ...]:
    """What tells two choices of tokens apart; tensors by who they are."""
    parts = (value if isinstance(value, (list, tuple)) else (value,) for value in values)
    return tuple(id(part) if isinstance(part, Tensor) else part for found in parts for part in found)


def _on_meta(value: Any) -> Any:
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value


def _takes_all(start: int | None = None, end: int | None = None, step: int = 1, *, size: int) -> bool:
    return not start and (end is None or end >= size) and step == 1
