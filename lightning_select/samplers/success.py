"""How often a row was solved: from rewards of several attempts, or from right and wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.looking import may_look
from lightning_select.types import Float, Int, Num

__all__ = ["SOURCES", "count_successes", "with_success"]

SOURCES = ("reward", "correct")
"""Signals that tell how often a row was solved, the more telling first."""

_ROUNDING = 1e-6
"""Share of the attempts by which a sum of rewards in float32 may exceed them."""


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


def with_success(
    owner: str, signals: Mapping[str, Tensor], ids: Int[Tensor, "rows"] | None = None
) -> Mapping[str, Tensor]:
    """The signals, and from rewards or correctness ``success`` and ``attempts`` where they are not there already.

    Args:
        owner: Who is to learn from them.
        signals: The signals.
        ids: Whose they are; what is said of an id below zero is padding.

    Raises:
        ArgumentError: On a CPU, a reward is outside [0, 1], or there are more successes than attempts or less than 0.
    """
    source = next((name for name in SOURCES if name in signals), None)
    if "success" in signals:
        told = signals if "attempts" in signals else {**signals, "attempts": torch.ones_like(signals["success"])}
        _check_counts(owner, told["success"], told["attempts"], ids)
        return told
    if source is None:
        return signals
    success, attempts = count_successes(owner, signals[source])
    return {**signals, "success": success, "attempts": attempts}


def _check_counts(
    owner: str, success: Num[Tensor, "rows"], attempts: Num[Tensor, "rows"], ids: Int[Tensor, "rows"] | None
) -> None:
    """Successes lie between none and all attempts, as far as looking costs nothing; NaN is neither."""
    if not may_look(success.device) or not may_look(attempts.device) or success.shape != attempts.shape:
        return
    wrong = (success < 0) | (success > attempts + _ROUNDING * attempts.abs())
    wrong = wrong if ids is None else wrong & (ids.to(wrong.device) >= 0)
    if bool(wrong.any()):
        raise ArgumentError(
            f"{owner}.success must be between 0 and the attempts of its row, got {float(success[wrong][0]):g} of "
            f"{float(attempts[wrong][0]):g}. Give both as numbers of attempts."
        )
