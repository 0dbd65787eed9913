"""Advantage range: groups whose advantages are all small are left out.

With a range of [0, 0] this is the filter on zero variance. A wider one also leaves out groups that would hardly move
the policy, whatever the mean of their rewards: for rewards between right and wrong, a group of nearly equal ones.

Know before use: for right and wrong without scale, the largest advantage of a group is ``max(p, 1 - p)`` where ``p`` is
the share that is right, so it is *smallest* at one half: this filter cannot single out groups of middling difficulty,
which `balanced` does.

References:
    prime-rl (PrimeIntellect), the admission gate on the range of advantages: a group is rejected where all of its
    advantages lie in [low, high], which are 0 and 0.

Deviations:
    The range must hold zero, since the advantages of a group add up to zero: any other one would reject nothing.
    Advantages are never scaled by the batch here, which would let a group's fate hang on its company. A group without
    variance up to rounding is rejected, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.advantages import advantages
from lightning_select.rollouts.zero_variance import TOLERANCE, zero_variance
from lightning_select.samplers.checks import between
from lightning_select.types import Bool, Shaped

__all__ = ["AdvantageRange", "advantage_range"]


def advantage_range(
    rewards: Shaped[Tensor, "groups attempts"],
    low: float = 0.0,
    high: float = 0.0,
    scale: Literal["group", "none"] = "none",
    tolerance: float = TOLERANCE,
) -> Bool[Tensor, "groups"]:
    """Which groups to keep: those with an advantage outside [low, high], and variance.

    Example:
        >>> import torch
        >>> advantage_range(torch.tensor([[0.5, 0.6], [0.0, 0.6], [0.5, 0.5]]), low=-0.1, high=0.1).tolist()
        [False, True, False]
    """
    gains = advantages(rewards, scale)
    outside = (gains < low * (1 + tolerance)) | (gains > high * (1 + tolerance))
    return outside.any(dim=1) & zero_variance(rewards, tolerance)


@dataclass(frozen=True)
class AdvantageRange:
    """Keep the groups that have an advantage outside a range.

    Args:
        low: Lower end of the range, at most 0; it belongs to the range.
        high: Upper end of the range, at least 0; it belongs to the range.
        scale: Are the advantages divided by the standard deviation of their ``group``, or by ``none``?
        tolerance: Share by which advantages may be off by rounding; see also `ZeroVariance`.

    Raises:
        ArgumentError: A value is out of range.
    """

    low: float = 0.0
    high: float = 0.0
    scale: Literal["group", "none"] = "none"
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        for name, sign in (("low", -1), ("high", 1)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= sign * value < math.inf:
                rule = "at least 0" if sign > 0 else "at most 0"
                raise ArgumentError(f"AdvantageRange.{name} must be a finite number, {rule}, got {value!r}.")
        if self.scale not in ("group", "none"):
            raise ArgumentError(f"AdvantageRange.scale must be group or none, got {self.scale!r}.")
        between("AdvantageRange", "tolerance", self.tolerance, 0.0, 1.0)

    def __call__(self, rewards: Shaped[Tensor, "groups attempts"]) -> Bool[Tensor, "groups"]:
        """Which groups train."""
        return advantage_range(rewards, self.low, self.high, self.scale, self.tolerance)
