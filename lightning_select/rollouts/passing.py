"""What a filter lets through: of each group, the attempts that train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import SelectorError
from lightning_select.types import Bool, Float

__all__ = ["Filter", "passing"]

Filter = Callable[[Tensor], Any]
"""``rewards (groups, attempts) -> bool``: which groups train (groups,), or which attempts (groups, attempts)."""


def passing(group_filter: Filter | None, metric: Float[Tensor, "groups attempts"]) -> Bool[Tensor, "groups attempts"]:
    """Which attempts a filter lets through.

    Raises:
        SelectorError: It returned something else than one answer per group, or per attempt.
    """
    if group_filter is None:
        return torch.ones_like(metric, dtype=torch.bool)
    found = group_filter(metric.clone())  # it may write to what it is given
    shapes = (metric.shape[:1], metric.shape)
    if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape not in shapes:
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        name = getattr(group_filter, "__name__", type(group_filter).__name__)
        raise SelectorError(
            f"{name} must return one bool for each of {metric.shape[0]} groups, or of their attempts, got {got}."
        )
    return (found[:, None] if found.dim() == 1 else found).expand(metric.shape)
