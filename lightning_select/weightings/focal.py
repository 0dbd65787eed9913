"""Focal weights: rows that the model already gets right count less.

Know before use: rows with wrong labels are never got right, and count most.

References:
    Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002,
    equation 4: ``FL(p_t) = -(1 - p_t)^gamma log(p_t)``.

Deviations:
    The factor is a weight without gradient, so its derivative does not take part as it does in the focal loss. It is
    applied to rows: where a row has many tokens, the mean of their losses stands for all of them. ``p_t = exp(-loss)``
    holds for cross entropy only; other losses get a smooth, saturating weight of the same form. The callback brings
    weights to mean one, where the focal loss shrinks as training goes on. No class balance ``alpha_t``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.schedule import Anneal
from lightning_select.types import Float

__all__ = ["Focal", "focal"]


def focal(losses: Float[Tensor, "rows"], gamma: float) -> Float[Tensor, "rows"]:
    """``(1 - exp(-loss))^gamma``; all one where that is zero for every row.

    A negative loss counts as zero. Losses must be finite, as LossReweighting shows them.
    """
    values = losses.detach().float().clamp(min=0.0)
    weights = (-torch.expm1(-values)).pow(gamma).to(losses.dtype)
    return torch.where(weights.amax() > 0, weights, 1.0)


@dataclass(frozen=True)
class Focal:
    """Weigh rows by ``(1 - p_t)^gamma``, where ``p_t`` is the probability of the right answer.

    One row, or all losses equal: equal weights.

    Args:
        gamma: How much easy rows lose: 0 is nothing. May be an `Anneal`.

    Raises:
        ArgumentError: ``gamma`` is negative or not a finite number.

    Example:
        >>> import torch
        >>> Focal(gamma=2.0)(-torch.tensor([0.9, 0.5]).log()).round(decimals=4)
        tensor([0.0100, 0.2500])
    """

    gamma: float | Anneal = 2.0

    def __post_init__(self) -> None:
        for value in (self.gamma.begin, self.gamma.end) if isinstance(self.gamma, Anneal) else (self.gamma,):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise ArgumentError(f"Focal.gamma must be a finite number, at least 0, got {value!r}.")

    def __call__(self, losses: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """One weight per row. Called by hand, an `Anneal` counts as its begin."""
        return focal(losses, self.gamma.begin if isinstance(self.gamma, Anneal) else self.gamma)
