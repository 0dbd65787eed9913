"""What there is to know about groups of rewards: which attempts count, their mean, their range.

A group is all attempts at one prompt, a row of ``rewards``. An attempt that could not be scored is NaN, and so are the
places that are left over where groups are not equally large. Such attempts do not count, nor does an infinite reward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.types import Bool, Float, Shaped

__all__ = ["as_groups", "counted", "group_mean", "group_range", "group_scale"]


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


def group_mean(rewards: Shaped[Tensor, "groups attempts"]) -> Float[Tensor, "groups"]:
    """Mean reward of the attempts that count; NaN for a group without any.

    Example:
        >>> group_mean(torch.tensor([[1.0, 0.0, torch.nan], [0.3, 0.3, 0.3]]))
        tensor([0.5000, 0.3000])
    """
    values, counts = as_groups(rewards), counted(rewards)
    # Measured from the lowest one, the mean of equal rewards is that reward exactly.
    lowest = torch.where(counts, values, torch.inf).amin(dim=1)
    above = torch.where(counts, values - lowest.unsqueeze(1), 0.0).sum(dim=1)
    size = counts.sum(dim=1)
    return torch.where(size > 0, lowest + above / size.clamp_min(1), torch.nan)


def group_range(rewards: Shaped[Tensor, "groups attempts"]) -> Float[Tensor, "groups"]:
    """Highest minus lowest reward of the attempts that count; NaN for a group without any."""
    values, counts = as_groups(rewards), counted(rewards)
    spread = torch.where(counts, values, -torch.inf).amax(dim=1) - torch.where(counts, values, torch.inf).amin(dim=1)
    return torch.where(counts.any(dim=1), spread, torch.nan)


def group_scale(rewards: Shaped[Tensor, "groups attempts"]) -> Float[Tensor, "groups"]:
    """How large the largest reward is, its sign aside, among the attempts that count; 0 for a group without any."""
    values, counts = as_groups(rewards), counted(rewards)
    return torch.where(counts, values.abs(), 0.0).amax(dim=1)
