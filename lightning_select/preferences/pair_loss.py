"""The loss of a reward model on pairs: minus the log-probability that the chosen completion beats the rejected one.

Know before use:
    A positive ``smoothing`` believes every label only so much. It bounds what one swapped pair can do, and is a robust
    loss of its own that peer review can be compared with.

References:
    Bradley and Terry, "Rank Analysis of Incomplete Block Designs", Biometrika 1952: ``P = sigmoid(margin)``.
    Mitchell, "A note on DPO with noisy preferences", 2023: the smoothed loss.

Deviations:
    None.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.types import Float

__all__ = ["PairLoss", "pair_loss"]


def pair_loss(margins: Float[Tensor, "rows"], smoothing: float = 0.0) -> Float[Tensor, "rows"]:
    """``-(1 - s) log sigmoid(margin) - s log sigmoid(-margin)`` of each pair."""
    right = F.softplus(-margins)
    return right if smoothing == 0 else (1 - smoothing) * right + smoothing * F.softplus(margins)


@dataclass(frozen=True)
class PairLoss:
    """Mean loss of the pairs.

    Attributes:
        smoothing: How likely a label is taken to be swapped, in [0, 0.5).

    Example:
        >>> import torch
        >>> round(float(PairLoss()(torch.tensor([0.0]))), 4)
        0.6931
    """

    smoothing: int | float = 0.0

    def __post_init__(self) -> None:
        value = self.smoothing
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 0.5:
            raise ArgumentError(f"PairLoss.smoothing must be in [0, 0.5), got {value!r}.")

    def __call__(self, margins: Float[Tensor, "rows"]) -> Float[Tensor, ""]:
        """The mean over the pairs."""
        return pair_loss(margins, self.smoothing).mean()
