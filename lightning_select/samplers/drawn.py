"""What a sampler returns from a draw."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_select.types import Float, Int

__all__ = ["Drawn"]


@dataclass(frozen=True)
class Drawn:
    """Rows for a batch of all ranks, in order.

    Attributes:
        ids: Dataset rows, int64.
        weights: How strongly each counts in its batch, from what was known when it was drawn; ``None``: all alike.
    """

    ids: Int[Tensor, "count"]
    weights: Float[Tensor, "count"] | None = None
