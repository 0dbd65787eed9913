"""What a selection looks like in the logs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_select.callbacks.base import entropy
from lightning_select.types import Bool, Float, Int

__all__ = ["selection_metrics"]


def selection_metrics(
    scores: Float[Tensor, "rows"],
    index: Int[Tensor, "kept"],
    weights: Float[Tensor, "kept"] | None,
    seconds: float,
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    others: Mapping[str, Tensor] | None = None,
) -> dict[str, float | Tensor]:
    """The metrics of one selection; those of the device stay there.

    Args:
        scores: Scores of the candidate batch; minus infinity where a row could not be scored.
        index: Positions of the rows kept.
        weights: Their weights, if any.
        seconds: How long it took.
        valid: Which tokens of a row count, where that is known.
        others: What the selector wants to be logged.
    """
    finite = scores.isfinite()
    kept = torch.zeros_like(finite).index_fill(0, index, True)
    metrics: dict[str, float | Tensor] = {
        "active": 1.0,
        "kept_share": index.numel() / scores.numel(),
        "score_kept": _mean(scores, kept & finite),
        "score_dropped": _mean(scores, ~kept & finite),
        "not_finite": (~finite).sum().float(),
        "scoring_seconds": seconds,
    }
    if weights is not None:
        metrics |= {"weight_entropy": entropy(weights), "weight_max": weights.max()}
    if valid is not None and valid.dim() > 1:
        lengths = valid.flatten(1).sum(dim=1).float()
        metrics |= {"length_kept": _mean(lengths, kept), "length_dropped": _mean(lengths, ~kept)}
    return metrics | dict(others or {})


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, 0.0).sum() / where.sum()
