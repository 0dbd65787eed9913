"""The logits of a batch without the logits: the hidden state that enters the output head, and the head.

With hidden states ``H`` (tokens by features) and a head ``W`` (classes by features) a row's logits are ``H @ W.T``.
What scores and selectors ask of them needs no ``(tokens, classes)`` matrix:

* products of all pairs of tokens: ``H (W.T W) H.T``, where ``W.T W`` is as small as the features are few;
* a projection of the classes to a few numbers, ``P @ logits``: ``H (P W).T``.

Singular values of the logits are the roots of the eigenvalues of the first. Both hold for any number of linear layers
that are added up (``H`` and ``W`` put side by side), with a bias (a feature that is one) and a factor per token. Heads
that are not linear in the hidden state are evaluated some classes at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.signals.head.cache import HeadCache
from lightning_select.signals.head.gram import linear_gram, logits_gram, summed_gram
from lightning_select.signals.head.terms import Dense, Linear, Term, device_of_term, join_terms, wide
from lightning_select.types import Bool, Float, Int

__all__ = ["Head"]

_AT_ONCE = 2**22
"""How many logits are held at a time where they are needed after all."""


class Head:
    """Logits of a batch, rows first, tokens second where there are any, as their parts.

    Args:
        term: What the logits are made of, in that order of axes.
        shape: Shape of the logits.
        cache: Where products of the weights are kept from step to step.
    """

    def __init__(self, term: Term, shape: Sequence[int], cache: HeadCache | None = None) -> None:
        self.term = term
        self.shape = torch.Size(shape)
        self._cache = HeadCache() if cache is None else cache

    @classmethod
    def of(cls, logits: Float[Tensor, "rows *tokens classes"]) -> Head:
        """Logits that are there already."""
        return cls(Dense(logits.detach()), logits.shape)

    @classmethod
    def linear(
        cls,
        hidden: Float[Tensor, "rows *tokens features"],
        weight: Float[Tensor, "classes features"],
        bias: Float[Tensor, "classes"] | None = None,
    ) -> Head:
        """``hidden @ weight.T + bias``, for a ``selection_step`` that knows its own output head.

        Raises:
            ArgumentError: The sizes do not belong together.
        """
        if weight.dim() != 2 or hidden.shape[-1:] != weight.shape[1:] or (bias is not None and bias.dim() != 1):
            shapes = [tuple(hidden.shape), tuple(weight.shape), None if bias is None else tuple(bias.shape)]
            raise ArgumentError(
                f"Head.linear must get (rows, tokens, features), (classes, features) and (classes,), got {shapes}."
            )
        return cls(Linear.of(hidden, weight, bias), (*hidden.shape[:-1], weight.shape[0]))

    @classmethod
    def joined(cls, heads: Sequence[Head]) -> Head:
        """Those of some rows each, one after the other: as one head where they are the same, or else as logits."""
        first, rows = heads[0], sum(head.shape[0] for head in heads)
        term = join_terms([head.term for head in heads])
        if term is None:
            return cls.of(torch.cat([head.logits() for head in heads]))
        return cls(term, (rows, *first.shape[1:]), first._cache)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.shape[-1]

    @property
    def tokens(self) -> int:
        """Number of tokens of every row; 1 where rows have none."""
        return math.prod(self.shape[1:-1])

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return device_of_term(self.term)

    def __getitem__(self, index: Int[Tensor, "kept"]) -> Head:
        """The rows ``index``."""
        return Head(self.term.carry(lambda t: t[index]), (index.shape[0], *self.shape[1:]), self._cache)

    def logits(self, begin: int = 0, end: int | None = None) -> Float[Tensor, "rows *tokens chunk"]:
        """The classes from ``begin`` to ``end``, in float32 at least."""
        with torch.autocast(self.device.type, enabled=False):
            return wide(self.term.chunk(begin, self.classes if end is None else end))

    def gram(
        self, used: Bool[Tensor, "rows *tokens"] | None = None, *, centre: bool = False
    ) -> Float[Tensor, "rows side side"]:
        """A float64 matrix per row whose eigenvalues are the squared singular values of the row's logits, and zeros.

        Args:
            used: Which tokens count; the others are as if they were not there.
            centre: Subtract from every token the mean of its logits over the classes.
        """
        term, tokens = self._by_row(), self.tokens
        mask = torch.ones(self.shape[:-1], dtype=torch.bool, device=self.device) if used is None else used
        mask = mask.reshape(self.shape[0], tokens)
        with torch.autocast(self.device.type, enabled=False):
            if isinstance(term, Linear) and term.features < self.classes:
                return linear_gram(term, mask, self._cache, centre=centre)
            if self.classes <= tokens or mask.numel() * self.classes <= _AT_ONCE or isinstance(term, Dense):
                return logits_gram(term, mask, self.classes, centre=centre)
            return summed_gram(term, mask, self.classes, centre=centre)

    def narrow(
        self, key: Hashable, project: Callable[[], Float[Tensor, "dims classes"]]
    ) -> Float[Tensor, "rows tokens dims"]:
        """The classes projected to a few numbers, in float32.

        Args:
            key: What tells this projection from others. While the weights stay the same it is applied to them once.
            project: Makes the projection.
        """
        term, classes = self._by_row(), self.classes
        with torch.autocast(self.device.type, enabled=False):
            total = torch.zeros((), device=self.device)
            if isinstance(term, Linear):
                for part in term.parts:
                    weight = self._cache.get(("narrow", key), (part.weight,), partial(_apply, project, part.weight))
                    total = total + part.hidden.float() @ weight.T
                return total
            projection = project()
            width = max(1, _AT_ONCE // max(1, self.shape[0] * self.tokens))
            for begin in range(0, classes, width):
                end = min(begin + width, classes)
                total = total + term.chunk(begin, end).float() @ projection[:, begin:end].T
            return total

    def _by_row(self) -> Term:
        """The term with one axis of tokens."""
        rows, tokens = self.shape[0], self.tokens
        return self.term.carry(lambda values: values.reshape(rows, tokens, values.shape[-1]))


def _apply(
    project: Callable[[], Float[Tensor, "dims classes"]], weight: Float[Tensor, "classes features"]
) -> Float[Tensor, "dims features"]:
    """The projection of a weight, without a float32 copy of all of it at once."""
    projection, width = project(), max(1, _AT_ONCE // weight.shape[1])
    total = projection.new_zeros(projection.shape[0], weight.shape[1])
    for begin in range(0, weight.shape[0], width):
        total += projection[:, begin : begin + width] @ weight[begin : begin + width].detach().float()
    return total
