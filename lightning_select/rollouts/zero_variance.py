"""Zero variance: groups whose attempts all have the same reward are left out, for they teach nothing.

The advantage of an attempt is its reward less the mean of its group. Where all attempts earn the same, right or wrong,
every advantage is zero, and the group only dilutes the batch.

Know before use: filtering makes each update worth more and costs attempts. At equal updates it helps; at equal attempts
it may do worse than no filter. A filter on a shaped reward (a bonus for length or form) keeps groups that all failed:
filter on the plain result, train on what you like.

References:
    Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, arXiv:2503.14476, equation 11:
    dynamic sampling keeps a group where ``0 < number of right attempts < size of the group``.

Deviations:
    Any rewards, not only right and wrong: the highest must differ from the lowest. Not the standard deviation, which
    rounding makes positive for seven times 0.3. Attempts that do not count are left out, so a group with one attempt
    that counts has no variance, and is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_select.rollouts.group_statistics import Spread
from lightning_select.samplers.checks import between
from lightning_select.types import Bool, Shaped

__all__ = ["TOLERANCE", "ZeroVariance", "varies", "zero_variance"]

TOLERANCE = 1e-6
"""Rewards that differ by this share of the largest are equal: a few roundings in float32."""

_TINY = 1e-6
"""Rewards of this size and below count as this large, so that zeros made of parts that cancel are equal."""


def zero_variance(rewards: Shaped[Tensor, "groups attempts"], tolerance: float = TOLERANCE) -> Bool[Tensor, "groups"]:
    """Which groups to keep: ``max - min > tolerance * max |reward|``, over the attempts that count.

    Example:
        >>> import torch
        >>> zero_variance(torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.3, 0.3], [1.0, torch.nan, torch.nan]])).tolist()
        [True, False, False]
    """
    return varies(Spread.of(rewards), tolerance)


def varies(spread: Spread, tolerance: float) -> Bool[Tensor, "groups"]:
    """The rule itself; false where no attempt counts."""
    return spread.highest - spread.lowest > tolerance * spread.size.clamp_min(_TINY)


@dataclass(frozen=True)
class ZeroVariance:
    """Keep the groups whose attempts did not all earn the same.

    Adding a constant to all rewards or multiplying them by one (not zero) changes nothing, as long as their dtype can
    still tell them apart.

    Args:
        tolerance: Rewards of a group that differ by at most this share of the largest are the same. Rewards that were
            computed in half precision need about 0.01.

    Raises:
        ArgumentError: ``tolerance`` is not in [0, 1].
    """

    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        between("ZeroVariance", "tolerance", self.tolerance, 0.0, 1.0)

    def __call__(self, rewards: Shaped[Tensor, "groups attempts"]) -> Bool[Tensor, "groups"]:
        """Which groups train."""
        return zero_variance(rewards, self.tolerance)
