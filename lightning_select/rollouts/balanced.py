"""Balanced difficulty: groups that succeed neither too seldom nor too often, by the mean of their rewards.

Know before use: the narrower the band, the more attempts a kept group costs, while what a group teaches grows little:
for groups of 16 whose solve rates are spread as Beta(0.3, 0.5), [0.25, 0.75] takes twice the attempts of leaving out
only the groups without variance, and [0.4, 0.6] more than six times. A group of few attempts has few means: of 4, a
band from 0.3 to 0.7 leaves the one with 2 right. `Balanced.effective` says which are left. That one half is best is
not a law, see `lightning_select.selectors.band`.

References:
    Bae et al., "Online Difficulty Filtering for Reasoning Oriented Reinforcement Learning", EACL 2026,
    arXiv:2504.03380: keep a prompt where ``low <= mean reward <= high``.

Deviations:
    The thresholds are ours, and whether the ends belong to the band is left to choose. A group must have variance too:
    rewards between right and wrong may all be 0.5. Attempts that do not count are left out of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.looking import may_look
from lightning_select.rollouts.group_statistics import Spread
from lightning_select.rollouts.zero_variance import TOLERANCE, varies
from lightning_select.samplers.checks import between, switch, whole
from lightning_select.types import Bool, Shaped

__all__ = ["Balanced", "balanced"]


def balanced(
    rewards: Shaped[Tensor, "groups attempts"],
    low: float,
    high: float,
    inclusive: bool = True,
    tolerance: float = TOLERANCE,
) -> Bool[Tensor, "groups"]:
    """Which groups to keep: those of variance with ``low <= mean <= high``, or ``low < mean < high``.

    Rewards are in [0, 1]. On a CPU another one is an error; on a device, where looking would mean to wait, its group is
    judged by its mean all the same.

    Raises:
        ArgumentError: A reward is outside [0, 1].

    Example:
        >>> import torch
        >>> balanced(torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]), low=0.25, high=0.7).tolist()
        [True, False, False]
    """
    spread = Spread.of(rewards)
    _check_range(spread, tolerance)
    # An end that belongs to the band is moved outwards by what rounding does to a mean, any other inwards.
    slack = tolerance if inclusive else -tolerance
    mean = spread.mean
    return (mean >= low - slack) & (mean <= high + slack) & varies(spread, tolerance)


@dataclass(frozen=True)
class Balanced:
    """Keep the groups whose mean reward is in a band and whose attempts did not all earn the same.

    Args:
        low: Lowest mean in the band.
        high: Highest mean in the band.
        inclusive: Do the ends belong to the band?
        tolerance: How far a mean may be off by rounding; see also `ZeroVariance`.

    Raises:
        ArgumentError: A value is out of range, or no group could ever be kept.
    """

    low: float = 0.25
    high: float = 0.75
    inclusive: bool = True
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        for name in ("low", "high", "tolerance"):
            between("Balanced", name, getattr(self, name), 0.0, 1.0)
        switch("Balanced", "inclusive", self.inclusive)
        if self.low > self.high:
            raise ArgumentError(f"Balanced.low must be at most Balanced.high ({self.high}), got {self.low}.")
        if not self.inclusive and self.low >= self.high - 2 * self.tolerance:
            rule = f"below Balanced.high ({self.high}) where its ends do not belong to the band"
            raise ArgumentError(f"Balanced.low must be {rule}, got {self.low}.")
        # A mean of exactly 0 or 1 is that of a group without variance.
        if self.low >= 1 or self.high <= 0:
            name, value = ("low", self.low) if self.low >= 1 else ("high", self.high)
            rule = "below 1" if name == "low" else "above 0"
            raise ArgumentError(f"Balanced.{name} must be {rule}, or every group is left out, got {value}.")

    def __call__(self, rewards: Shaped[Tensor, "groups attempts"]) -> Bool[Tensor, "groups"]:
        """Which groups train."""
        return balanced(rewards, self.low, self.high, self.inclusive, self.tolerance)

    def widened(self, attempts: int) -> Balanced:
        """The band with one more number of right attempts at both ends; what has no variance never enters."""
        step = 1 / whole("Balanced", "attempts", attempts, least=1)
        return replace(self, low=max(0.0, self.low - step), high=min(1.0, self.high + step))

    def effective(self, attempts: int) -> tuple[int, int]:
        """The fewest and the most right attempts, out of so many that are right or wrong, that pass.

        Raises:
            ArgumentError: No number passes.

        Example:
            >>> Balanced(low=0.2, high=0.8).effective(16)
            (4, 12)
        """
        whole("Balanced", "attempts", attempts, least=1)
        slack = self.tolerance if self.inclusive else -self.tolerance
        inside = range(1, attempts)  # none right and all right have no variance
        passing = [k for k in inside if self.low - slack <= k / attempts <= self.high + slack]
        if not passing:
            least = "Two attempts are the least." if attempts < 2 else "Widen it, or make more attempts."
            raise ArgumentError(
                f"Balanced.low and Balanced.high must leave a number of right attempts out of {attempts}, got "
                f"{self.low} and {self.high}: no such group would ever be kept. {least}"
            )
        return passing[0], passing[-1]


def _check_range(spread: Spread, tolerance: float) -> None:
    if not spread.lowest.shape[0] or not may_look(spread.values.device):
        return
    lowest, highest = float(spread.lowest.amin()), float(spread.highest.amax())
    if lowest < -tolerance or highest > 1 + tolerance:
        raise ArgumentError(
            f"Balanced.rewards must be in [0, 1], got {lowest if lowest < -tolerance else highest:g}. Filter on a "
            "success rate or a rescaled reward; what is trained on may be another one."
        )
