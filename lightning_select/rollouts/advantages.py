"""Advantages: how much better an attempt did than the others at the same prompt.

Each reward less the mean of its group, then divided by a standard deviation or not. All are sample deviations (divided
by the number less one, as ``torch.std`` does).

Know before use: dividing by that of the *group* lifts groups that are nearly all right or nearly all wrong to the size
of the others. Filter first, then compute advantages: with the scale of the group the order makes no difference, with
that of the *batch* it does, because groups without variance shrink the deviation. The batch is what is given: over
micro-batches or ranks, gather rewards first.

References:
    Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024,
    arXiv:2402.03300, section 4.1.2: ``(r_i - mean(r)) / std(r)`` (scale ``group``).
    Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective", COLM 2025, arXiv:2503.20783: no division,
    which favours questions that are too hard or too easy (scale ``none``).

Deviations:
    ``eps`` in the denominator, 1e-4 as in TRL: it lets rewards of a much smaller spread fade. With the scale of the
    batch the deviation is that of the *centred* rewards, not of the rewards, so that prompts of different difficulty do
    not add to it.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.group_statistics import as_groups, counted
from lightning_select.samplers.checks import between
from lightning_select.types import Float, Shaped

__all__ = ["SCALES", "Scale", "advantages"]

Scale = Literal["group", "batch", "none"]
"""What advantages are divided by: a standard deviation, or nothing."""

SCALES = get_args(Scale)


def advantages(
    rewards: Shaped[Tensor, "groups attempts"],
    scale: Scale = "group",
    eps: float = 1e-4,
) -> Float[Tensor, "groups attempts"]:
    """Advantages of attempts; 0 for one that does not count, and for one that is alone in its group.

    Groups without variance have exactly 0. The result has at least the precision of float32.

    Args:
        rewards: Rewards of attempts, those at one prompt in a row.
        scale: Divide by the standard deviation of the ``group``, of the whole ``batch``, or by ``none``.
        eps: What is added to the standard deviation.

    Raises:
        ArgumentError: Rewards are no tensor (groups, attempts), or another value is out of range.

    Example:
        >>> advantages(torch.tensor([[1.0, 0.0, 0.5, torch.nan]]), scale="none")
        tensor([[ 0.5000, -0.5000,  0.0000,  0.0000]])
    """
    if scale not in SCALES:
        raise ArgumentError(f"advantages.scale must be one of {', '.join(SCALES)}, got {scale!r}.")
    between("advantages", "eps", eps, 0.0, math.inf)
    values, counts = as_groups(rewards), counted(rewards)
    size = counts.sum(dim=1, keepdim=True)
    # Measured from the lowest one, equal rewards are centred to zero without any rounding.
    lowest = torch.where(counts, values, torch.inf).amin(dim=1, keepdim=True)
    above = torch.where(counts, values - lowest, 0.0)
    centred = torch.where(counts, above - above.sum(dim=1, keepdim=True) / size.clamp_min(1), 0.0)
    if scale == "none":
        return centred
    squares = centred.square()
    if scale == "group":
        variance = squares.sum(dim=1, keepdim=True) / (size - 1).clamp_min(1)
    else:
        variance = squares.sum() / (size.sum() - 1).clamp_min(1)
    deviation = variance.sqrt() + eps
    # Without eps, what has no deviation is zero already.
    return centred / torch.where(deviation > 0, deviation, 1.0)
