"""What a run of training on rewards says: numbers to the logger, and now and then some attempts to be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_select.compat import rank_zero_info
from lightning_select.rollouts.groups import Group
from lightning_select.types import Float

__all__ = ["log_round", "show"]

_WIDTH = 300
"""Letters of an attempt that are shown."""

_SUMS = (
    "rounds",
    "updates",
    "attempts",
    "tokens",
    "unscorable",
    "screened_out",
    "dropped",
    "repeated",
    "short",
    "empty",
)


def log_round(module: Any, metric: Float[Tensor, "rows attempts"], found: Mapping[str, float]) -> None:
    """Log a round, and the update that it ended with, if it did.

    ``train/metric`` and ``train/right`` are means over the attempts of the round on this rank, whatever became of them.
    Shares count from the beginning of training and over all ranks; so do the sums. Numbers of an update stand in the
    logger until the next one.
    """
    sums, there = module.counters, metric.isfinite()
    prompts = max(1, sums.prompts)
    values = {
        "metric": metric.nanmean(),
        "right": (metric >= module.solved_at).sum() / there.sum().clamp(min=1),
        "kept_share": sums.kept / prompts,
        "all_failed_share": sums.all_failed / prompts,
        "all_solved_share": sums.all_solved / prompts,
        "waiting": float(len(module.buffer.waiting)),
        **{name: float(getattr(sums, name)) for name in _SUMS},
        **found,
    }
    for name, value in values.items():
        module.log(f"train/{name}", value, on_step=True, on_epoch=False, batch_size=1)


def show(group: Group | None, updates: int) -> None:
    """Say what the attempts at one prompt look like: the best, the one in the middle and the worst, with rewards."""
    if group is None:
        return
    lines = [f"Attempts after {updates} updates, at {_short(group.prompt)}"]
    pairs = zip(group.rewards.nan_to_num(nan=-math.inf).tolist(), group.attempts.texts, strict=True)
    ordered = sorted(pairs, reverse=True)
    chosen = dict.fromkeys([ordered[0], ordered[len(ordered) // 2], ordered[-1]])
    lines += [
        f"  {'no reward' if reward == -math.inf else f'reward {reward:g}'}: {_short(text)}" for reward, text in chosen
    ]
    rank_zero_info("\n".join(lines))


def _short(text: str) -> str:
    return repr(text if len(text) <= _WIDTH else f"{text[:_WIDTH]} ...")
