"""Losses of the pieces of one batch on one scale."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from lightning_select.signals.layout.rows import Layout
from lightning_select.signals.recording.records import Record
from lightning_select.types import Float

__all__ = ["Scales"]


class Scales:
    """Remembers by what the first piece of a batch multiplies the terms of its rows, for all pieces to do the same.

    What a step divides by may depend on the rows that it sees: the tokens under a mask, the class weights of its rows.
    A whole batch has one divisor, so its pieces have to have one too. That of the first piece is taken, or the first
    that is finite and not zero.
    """

    def __init__(self) -> None:
        self._first: dict[Hashable, Tensor] = {}

    def bring(
        self, key: Hashable, losses: Float[Tensor, "rows"], record: Record, layout: Layout, factor: Tensor | float
    ) -> Float[Tensor, "rows"]:
        """Losses of one reduction as they would be with the divisor of the first piece.

        Args:
            key: Which reduction of which step this is.
            losses: What the rows of this piece contribute.
            record: The reduction.
            layout: Where the rows are in its terms.
            factor: How much the reduction counts in the loss.
        """
        norm, valid = torch.as_tensor(record.terms.norm), record.terms_in(layout).valid
        count = losses.shape[0] if valid is None else valid.sum()
        # A norm for each term is part of the term.
        scale = torch.as_tensor((norm if norm.numel() == 1 else 1.0) * count * factor).detach().to(losses).reshape(())
        first = self._first.get(key, scale)
        self._first[key] = first = torch.where(_usable(first), first, scale)
        ratio = first / scale
        return losses * torch.where(_usable(ratio), ratio, 1.0)


def _usable(scale: Tensor) -> Tensor:
    return scale.isfinite() & (scale != 0)
