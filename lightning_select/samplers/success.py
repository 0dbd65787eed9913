"""How often a row was solved: from rewards of several attempts, or from right and wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.looking import may_look
from lightning_select.types import Float, Num

__all__ = ["SOURCES", "count_successes", "with_success"]

SOURCES = ("reward", "correct")
"""Signals that tell how often a row was solved, the more telling first."""


def count_successes(
    owner: str, rewards: Num[Tensor, "rows *attempts"]
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]:
    """Sum of the rewards of each row, and the number of its attempts; an attempt that is NaN does not count.

    On a CPU a reward outside [0, 1] is an error; on a device, where looking would mean to wait, it is clamped.

    Raises:
        ArgumentError: A reward is outside [0, 1].
    """
    values = rewards.double().reshape(rewards.shape[0], -1)
    if may_look(values.device) and bool(((values < 0) | (values > 1)).any()):
        wrong = values[(values < 0) | (values > 1)][0]
        raise ArgumentError(
            f"{owner}.reward must be in [0, 1] to be counted as success, got {float(wrong):g}. Rescale the rewards."
        )
    scored = ~values.isnan()
    return torch.where(scored, values.clamp(0.0, 1.0), 0.0).sum(dim=1), scored.sum(dim=1).double()


def with_success(owner: str, signals: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The signals, and from rewards or correctness ``success`` and ``attempts`` where they are not there already."""
    source = next((name for name in SOURCES if name in signals), None)
    if "success" in signals:
        return signals if "attempts" in signals else {**signals, "attempts": torch.ones_like(signals["success"])}
    if source is None:
        return signals
    success, attempts = count_successes(owner, signals[source])
    return {**signals, "success": success, "attempts": attempts}
