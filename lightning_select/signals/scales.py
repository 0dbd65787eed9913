"""Losses of the pieces of one batch on one scale."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from lightning_select.signals.recording.terms import Terms
from lightning_select.types import Bool, Float

__all__ = ["Scales"]


class Scales:
    """Remembers by what the first piece of a batch multiplies the terms of its rows, for all pieces to do the same.

    What a step divides by may depend on the rows that it sees: the tokens under a mask, the class weights of its rows.
    A whole batch has one divisor, so its pieces have to have one too. That of the first piece in which some loss is not
    zero is taken, or the first that is finite and not zero. Only what is divided after a sum, or by a loss of torch, is
    known: with ``(losses * (mask / mask.sum())).sum()`` the divisor is part of the terms. A loss that is one of torch
    with ``reduction="sum"`` and nothing else is brought to the number of rows of the batch; of ``losses.sum()`` nobody
    knows whether the losses were divided before, so it keeps the scale of its piece.

    Args:
        rows: Rows of the whole batch.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._first: dict[Hashable, Tensor] = {}

    def bring(
        self,
        key: Hashable,
        losses: Float[Tensor, "rows"],
        terms: Terms,
        valid: Bool[Tensor, "*shape"] | None,
        factor: Tensor | float,
        *,
        summed: bool,
    ) -> Float[Tensor, "rows"]:
        """Losses of one reduction as they are in the loss, with the divisor of the first piece.

        Args:
            key: Which reduction of which step this is.
            losses: What the rows of this piece contribute to it.
            terms: What the reduction was made of, as the step made it.
            valid: Which of them count, with those that a mask cut away back in their places; ``None``: all.
            factor: How much it counts in the loss.
            summed: Is it a loss of torch with ``reduction="sum"``?
        """
        if not terms.values.numel():  # nothing was let through by a mask
            return losses
        norm, weight = terms.norm, _on(losses, factor)
        if isinstance(norm, Tensor) and norm.dim() > 0:
            norm = 1.0  # one for each term is part of the term
        count = losses.shape[0] if valid is None else valid.sum()
        scale = _on(losses, norm) * _on(losses, count) * weight
        shown = torch.where(losses.any(), scale, 0.0)  # of nothing but zeros, a divisor may be anything
        known = self._first.get(key, shown)
        self._first[key] = first = torch.where(_usable(known), known, shown)
        ratio = torch.where(_usable(first / scale), first / scale, 1.0)
        alone = isinstance(factor, float) and factor == 1.0
        whole = self._rows / losses.shape[0] if summed and alone else 1.0
        # Of a piece that has nothing to divide by, every loss is nothing times infinity.
        return torch.where(losses == 0, losses, losses * weight * ratio * whole)


def _on(like: Tensor, value: Tensor | float) -> Tensor:
    """As a scalar beside ``like``; a number gets there without a wait."""
    if isinstance(value, Tensor):
        return value.detach().to(like).reshape(())
    return like.new_full((), value)


def _usable(scale: Tensor) -> Tensor:
    return scale.isfinite() & (scale != 0)
