"""Attempts at the rows of a batch, told apart from rows that say nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_select.types import Float, Int

__all__ = ["tries"]


def tries(
    ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]
) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"], Float[Tensor, "rows"]]:
    """Ids, successful attempts and failed attempts; a row without attempts says nothing and becomes padding.

    A rollout that was dropped or could not be scored is no failure, so a row of such rollouts alone was not tried.
    """
    success, attempts = signals["success"].double(), signals["attempts"].double()
    tried = (ids >= 0) & (attempts > 0) & attempts.isfinite() & success.isfinite()
    failures = (attempts - success).clamp_min(0.0)
    return (
        torch.where(tried, ids, -1),
        torch.where(tried, success.clamp_min(0.0), 0.0),
        torch.where(tried, failures, 0.0),
    )
