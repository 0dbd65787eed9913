"""What there is to know about groups of rewards: which attempts count, their mean, their range.

A group is all attempts at one prompt, a row of ``rewards``. An attempt that could not be scored is NaN, and so are the
places that are left over where groups are not equally large. Such attempts do not count, nor does an infinite reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.types import Bool, Float, Shaped

__all__ = ["Spread", "as_groups", "counted", "group_mean", "group_range", "group_scale"]


def as_groups(rewards: Any) -> Float[Tensor, "groups attempts"]:
    """Rewards as numbers to compute with, without gradient: booleans, whole numbers and halves become float32.

    Raises:
        ArgumentError: They are no tensor (groups, attempts) of numbers.
    """
    rule = "rewards must be a tensor of numbers of shape (groups, attempts)"
    if not isinstance(rewards, Tensor):
        raise ArgumentError(f"{rule}, got {type(rewards).__name__}.")
    if rewards.dim() != 2 or not rewards.shape[1]:
        raise ArgumentError(f"{rule}, at least one attempt, got shape {tuple(rewards.shape)}.")
    if rewards.is_complex():
        raise ArgumentError(f"{rule}, got {rewards.dtype}.")
    return rewards.detach().to(torch.promote_types(rewards.dtype, torch.float32))


def counted(rewards: Shaped[Tensor, "groups attempts"]) -> Bool[Tensor, "groups attempts"]:
    """Which attempts count: those whose reward is finite."""
    return as_groups(rewards).isfinite()


@dataclass(frozen=True)
class Spread:
    """The rewards of groups, and their ends: infinite the wrong way round for a group of which no attempt counts.

    Attributes:
        values: The rewards.
        counts: Which of them count.
        lowest: The lowest of each group.
        highest: The highest.
    """

    values: Float[Tensor, "groups attempts"]
    counts: Bool[Tensor, "groups attempts"]
    lowest: Float[Tensor, "groups"]
    highest: Float[Tensor, "groups"]

    @classmethod
    def of(cls, rewards: Shaped[Tensor, "groups attempts"]) -> Spread:
        """Looks at each reward once."""
        values = as_groups(rewards)
        counts = values.isfinite()
        lowest, highest = (torch.where(counts, values, end) for end in (torch.inf, -torch.inf))
        return cls(values, counts, lowest.amin(dim=1), highest.amax(dim=1))

    @property
    def mean(self) -> Float[Tensor, "groups"]:
        """Of the attempts that count, measured from the lowest one: that of equal rewards is that reward exactly."""
        above = torch.where(self.counts, self.values - self.lowest.unsqueeze(1), 0.0).sum(dim=1)
        return self.lowest + above / self.counts.sum(dim=1)

    @property
    def size(self) -> Float[Tensor, "groups"]:
        """How large the largest reward of each group is, its sign aside."""
        return torch.maximum(self.highest, -self.lowest)


def group_mean(rewards: Shaped[Tensor, "groups attempts"]) -> Float[Tensor, "groups"]:
    """Mean reward of the attempts that count; NaN for a group without any.

    Example:
        >>> group_mean(torch.tensor([[1.0, 0.0, torch.nan], [0.3, 0.3, 0.3]]))
        tensor([0.5000, 0.3000])
    """
    return Spread.of(rewards).mean


def group_range(rewards: Shaped[Tensor, "groups attempts"]) -> Float[Tensor, "groups"]:
    """Highest minus lowest reward of the attempts that count; NaN for a group without any."""
    spread = Spread.of(rewards)
    return torch.where(spread.counts.any(dim=1), spread.highest - spread.lowest, torch.nan)


def group_scale(rewards: Shaped[Tensor, "groups attempts"]) -> Float[Tensor, "groups"]:
    """How large the largest reward is, its sign aside, among the attempts that count; 0 for a group without any."""
    return Spread.of(rewards).size.clamp_min(0.0)
