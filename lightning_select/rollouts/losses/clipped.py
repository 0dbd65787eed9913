"""The term of a token that all losses here share: the clipped policy gradient of PPO.

References:
    Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347,
    equation 7.
    Yu et al., "DAPO", 2025, arXiv:2503.14476, equation 10: two bounds instead of one.

Deviations:
    The difference of log-probabilities is kept in [-20, 20], where the exponential is finite in float32. A token beyond
    has no gradient: so far off, its ratio is no estimate of anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.losses.totals import Totals
from lightning_select.samplers.checks import between
from lightning_select.types import Bool, Float

__all__ = ["MOST", "check_clip", "clipped_share", "clipped_terms", "row_sums"]

MOST = 20.0
"""Largest difference of log-probabilities that counts."""


def clipped_terms(
    log_probs: Float[Tensor, "rows length"],
    old_log_probs: Float[Tensor, "rows length"],
    advantages: Float[Tensor, "rows"],
    mask: Bool[Tensor, "rows length"],
    clip_low: float,
    clip_high: float,
) -> tuple[Float[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
    """``-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A)`` of each token, 0 outside the mask.

    The gradient is for ``log_probs`` alone. What stands outside the mask may be anything, also NaN. Halves are computed
    in float32.

    Returns:
        The terms to be made small, and which of them the clipping deprives of their gradient.

    Raises:
        ArgumentError: Shapes do not fit, or the mask is not boolean.
    """
    _check_shapes(log_probs, old_log_probs, advantages, mask)
    dtype = torch.promote_types(log_probs.dtype, torch.float32)
    apart = torch.where(mask, log_probs.to(dtype) - old_log_probs.detach().to(dtype), 0.0)
    ratio = apart.clamp(-MOST, MOST).exp()
    gain = advantages.detach().to(dtype).unsqueeze(1)
    with torch.no_grad():
        # Outside the mask the ratio is 1, which no bound cuts.
        cut = ((ratio > 1.0 + clip_high) & (gain > 0)) | ((ratio < 1.0 - clip_low) & (gain < 0))
        bound = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    # The minimum, written so that a ratio on a bound keeps its gradient, which the clamp of torch 2.15 takes away.
    terms = -torch.where(cut, bound, ratio) * gain
    return torch.where(mask, terms, 0.0), cut


def clipped_share(cut: Bool[Tensor, "rows length"], totals: Totals) -> Float[Tensor, ""]:
    """Tokens without gradient, as a share of those of the update."""
    return totals.per_token(cut.sum().float())


def row_sums(terms: Float[Tensor, "rows length"], mask: Bool[Tensor, "rows length"]) -> Float[Tensor, "rows"]:
    """Sum of the terms of each row, inside the mask."""
    return torch.where(mask, terms, 0.0).sum(dim=1)


def check_clip(owner: str, clip_low: float, clip_high: float) -> None:
    """Bounds of the ratio that make sense.

    Raises:
        ArgumentError: They do not.
    """
    between(owner, "clip_low", clip_low, 0.0, 1.0)
    between(owner, "clip_high", clip_high, 0.0, math.inf)


def _check_shapes(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> None:
    shape, given = log_probs.shape, {"old_log_probs": old_log_probs, "mask": mask}
    if len(shape) != 2:
        raise ArgumentError(f"log_probs must have shape (rows, length), got {tuple(shape)}.")
    for name, value in given.items():
        if value.shape != shape:
            raise ArgumentError(f"{name} must have the shape of log_probs, {tuple(shape)}, got {tuple(value.shape)}.")
    if advantages.shape != shape[:1]:
        raise ArgumentError(f"advantages must have shape ({shape[0]},), one a row, got {tuple(advantages.shape)}.")
    if mask.dtype != torch.bool:
        raise ArgumentError(f"mask must be boolean, got {mask.dtype}.")
