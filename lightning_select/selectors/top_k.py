"""Top-k: the rows with the largest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_select.protocols import SelectionContext
from lightning_select.types import Float, Int, Selection

__all__ = ["TopK", "top_k"]


def top_k(scores: Float[Tensor, "rows"], count: int) -> Int[Tensor, "count"]:
    """Positions of the ``count`` largest scores, in the order of the batch; of equal scores the earlier row wins."""
    order = scores.argsort(descending=True, stable=True)
    return order[:count].sort().values


@dataclass(frozen=True)
class TopK:
    """Keep the rows with the largest scores.

    Example:
        >>> import torch
        >>> top_k(torch.tensor([0.1, 0.9, 0.5, 0.9]), 2).tolist()
        [1, 3]
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    with_replacement: ClassVar[bool] = False

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows."""
        return Selection(top_k(scores, count))
