"""What one update is divided by, and what a loss returns.

An update is often computed in parts: micro-batches, and ranks. Each part is divided by the numbers of the whole, so
that the losses of all parts add up to the loss of the update, however it was cut and however many groups a filter kept.
Where the gradients of ranks are averaged instead of added, as DDP does, the loss is to be multiplied by their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.types import Bool, Float

__all__ = ["PolicyLoss", "Totals"]


@dataclass(frozen=True)
class Totals:
    """How much there is in one update, over all its micro-batches and ranks.

    Args:
        attempts: Number of attempts. Leave out those that do not count, here and in the masks.
        tokens: Number of their tokens; a tensor without dimensions is not waited for.

    Raises:
        ArgumentError: A number is negative or not finite, or there is no attempt.
    """

    attempts: int | float | Tensor
    tokens: int | float | Tensor

    def __post_init__(self) -> None:
        for name in ("attempts", "tokens"):
            value: Any = getattr(self, name)
            if isinstance(value, Tensor):
                if value.dim():
                    raise ArgumentError(f"Totals.{name} must be one number, got shape {tuple(value.shape)}.")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ArgumentError(f"Totals.{name} must be a finite number, at least 0, got {value!r}.")
        if not isinstance(self.attempts, Tensor) and self.attempts == 0:
            raise ArgumentError("Totals.attempts must be positive, got 0: an update needs something to learn from.")

    @classmethod
    def of(cls, mask: Bool[Tensor, "rows length"]) -> Totals:
        """Those of an update that is computed in one part; every row is an attempt, also one without tokens."""
        return cls(float(max(mask.shape[0], 1)), mask.sum())

    def per_attempt(self, value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Divided by the attempts of the update."""
        return value / _divisor(self.attempts)

    def per_token(self, value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Divided by the tokens of the update; nothing over nothing is nothing."""
        return value / _divisor(self.tokens)


@dataclass(frozen=True)
class PolicyLoss:
    """What a loss returns.

    Attributes:
        loss: This part's share of the loss of the update.
        clipped: Tokens of this part whose gradient is cut off by the clipping, as a share of the tokens of the update.
    """

    loss: Float[Tensor, ""]
    clipped: Float[Tensor, ""]


def _divisor(number: int | float | Tensor) -> int | float | Tensor:
    return torch.where(number > 0, number, 1) if isinstance(number, Tensor) else number or 1.0
