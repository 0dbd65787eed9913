"""What logits are made of, so that they can be had a few classes at a time, or not at all.

A `Term` stands for a tensor whose class axis is never filled. `Linear` is the usual output head, the sum of one or
several linear layers (a head under LoRA is two of them). `Mapped` is anything that torch computes entry by entry from
such terms: a soft cap, a mask over the vocabulary, a mixture of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_select.signals.equality import same_values
from lightning_select.torch_compat import base_of
from lightning_select.types import Float, Shaped

__all__ = [
    "Dense",
    "Linear",
    "Mapped",
    "Part",
    "PerClass",
    "PerToken",
    "Term",
    "device_of_term",
    "is_term",
    "join_terms",
    "owner_of",
    "wide",
]

Carry = Callable[[Tensor], Tensor]
"""Moves tokens about in a tensor that has some other size where the logits have their classes."""


@runtime_checkable
class Term(Protocol):
    """A tensor of logits, or something that is combined with it, without its class axis."""

    def carry(self, move: Carry) -> Term:
        """The same after ``move`` was applied to everything that has tokens."""

    def chunk(self, begin: int, end: int) -> Shaped[Tensor, "*tokens #chunk"]:
        """The classes from ``begin`` to ``end``; the class axis must be the last one."""


@dataclass(frozen=True, eq=False)
class Part:
    """One linear layer.

    Attributes:
        hidden: Its input, tokens in any number of axes; where logits have their classes it has features.
        weight: Its weight.
    """

    hidden: Float[Tensor, "*tokens features"]
    weight: Float[Tensor, "classes features"]


@dataclass(frozen=True, eq=False)
class Linear:
    """``sum_i hidden_i @ weight_i.T``."""

    parts: tuple[Part, ...]

    @classmethod
    def of(
        cls,
        hidden: Float[Tensor, "*tokens features"],
        weight: Float[Tensor, "classes features"],
        bias: Float[Tensor, "classes"] | None = None,
    ) -> Linear:
        """One linear layer, features last."""
        term = cls((Part(hidden.detach(), weight),))
        return term if bias is None else term.shifted(bias)

    @property
    def features(self) -> int:
        """Number of features of all layers together."""
        return sum(part.weight.shape[1] for part in self.parts)

    def carry(self, move: Carry) -> Linear:
        """The same after ``move`` was applied to the inputs."""
        return Linear(tuple(replace(part, hidden=move(part.hidden)) for part in self.parts))

    def chunk(self, begin: int, end: int) -> Float[Tensor, "*tokens chunk"]:
        """Some of the logits, in float32 (float64 where the layers are)."""
        pieces = (F.linear(wide(part.hidden), wide(part.weight[begin:end])) for part in self.parts)
        return sum(pieces, start=torch.zeros((), device=self.parts[0].hidden.device))

    def scaled(self, factor: Tensor | float) -> Linear:
        """All logits times a number, or each token's times its own."""
        return Linear(tuple(replace(part, hidden=wide(part.hidden) * factor) for part in self.parts))

    def shifted(self, bias: Float[Tensor, "classes"], axis: int = -1) -> Linear:
        """A bias added to every token: a feature that is always one. ``axis`` is that of the features."""
        like = self.parts[0].hidden
        return Linear((*self.parts, Part(torch.ones_like(like.narrow(axis, 0, 1)), bias.unsqueeze(1))))


@dataclass(frozen=True, eq=False)
class Dense:
    """Logits that are there."""

    values: Shaped[Tensor, "*tokens classes"]

    def carry(self, move: Carry) -> Dense:
        """The same after ``move`` was applied."""
        return Dense(move(self.values))

    def chunk(self, begin: int, end: int) -> Shaped[Tensor, "*tokens chunk"]:
        """Some of the classes."""
        return self.values[..., begin:end]


@dataclass(frozen=True, eq=False)
class PerToken:
    """One number per token, the same for every class."""

    values: Shaped[Tensor, "*tokens 1"]

    def carry(self, move: Carry) -> PerToken:
        """The same after ``move`` was applied."""
        return PerToken(move(self.values))

    def chunk(self, begin: int, end: int) -> Shaped[Tensor, "*tokens 1"]:
        """The number of each token."""
        return self.values


@dataclass(frozen=True, eq=False)
class PerClass:
    """One number per class, the same for every token."""

    values: Shaped[Tensor, "classes"]

    def carry(self, move: Carry) -> PerClass:
        """Nothing moves."""
        return self

    def chunk(self, begin: int, end: int) -> Shaped[Tensor, "chunk"]:
        """The numbers of some classes."""
        return self.values[begin:end]


@dataclass(frozen=True, eq=False)
class Mapped:
    """``func`` of other terms, entry by entry."""

    func: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def carry(self, move: Carry) -> Mapped:
        """The same after ``move`` was applied to every term."""
        return replace(self, args=tuple(a.carry(move) if is_term(a) else a for a in self.args))

    def chunk(self, begin: int, end: int) -> Shaped[Tensor, "*tokens chunk"]:
        """The classes from ``begin`` to ``end``."""
        return self.func(*(a.chunk(begin, end) if is_term(a) else a for a in self.args), **self.kwargs)


def owner_of(weight: Tensor) -> Tensor:
    """The parameter that ``weight`` is a view of, or itself."""
    base = base_of(weight)
    return weight if base is None else base


def is_term(value: Any) -> bool:
    """Is this a term, and not a number?"""
    return isinstance(value, (Linear, Dense, PerToken, PerClass, Mapped))


def device_of_term(term: Any) -> torch.device:
    """Where a term lies."""
    if isinstance(term, Mapped):
        return next(device_of_term(value) for value in term.args if is_term(value))
    return term.parts[0].hidden.device if isinstance(term, Linear) else term.values.device


def join_terms(terms: Sequence[Any]) -> Any:
    """Terms of some rows each, rows first, as one; ``None`` where they are not made alike of the same weights."""
    first = terms[0]
    if any(type(term) is not type(first) for term in terms):
        return None
    if isinstance(first, (Dense, PerToken)):
        return type(first)(torch.cat([term.values for term in terms]))
    if isinstance(first, Linear):
        columns = list(zip(*(term.parts for term in terms), strict=False))
        alike = len({len(term.parts) for term in terms}) == 1
        if not alike or not all(_one_weight([part.weight for part in column]) for column in columns):
            return None
        return Linear(tuple(Part(torch.cat([part.hidden for part in one]), one[0].weight) for one in columns))
    if isinstance(first, PerClass):
        return first if all(_alike(term.values, first.values) for term in terms) else None
    if any(term.func is not first.func or len(term.args) != len(first.args) for term in terms):
        return None
    if not all(_alike(term.kwargs, first.kwargs) for term in terms):
        return None
    columns = list(zip(*(term.args for term in terms), strict=True))
    if not all(is_term(one[0]) or all(_alike(other, one[0]) for other in one) for one in columns):
        return None  # a number that was taken from the rows
    places = [join_terms(one) if is_term(one[0]) else one[0] for one in columns]
    lost = any(place is None and is_term(given) for place, given in zip(places, first.args, strict=True))
    return None if lost else replace(first, args=tuple(places))


def _alike(one: Any, other: Any) -> bool:
    """Are these operands the same? Each piece has its own copy of a tensor."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return same_values(one, other)
    return type(one) is type(other) and not isinstance(one, Tensor) and bool(one == other)


def _one_weight(weights: Sequence[Tensor]) -> bool:
    first = weights[0]
    bias = first.dim() == 2 and first.shape[1] == 1  # small, and copied where the step adds it
    return all(
        one.shape == first.shape and (one.data_ptr() == first.data_ptr() or (bias and torch.equal(one, first)))
        for one in weights
    )


def wide(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
