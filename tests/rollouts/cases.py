"""What the tests of the pure functions on rewards share: groups, a look at configs, and tokens of a policy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from lightning_select.rollouts.losses.totals import Totals
from tests.samplers.waits import Waits

NAN = math.nan
CONFIGS = Path(__file__).parents[2] / "configs" / "rollouts"

ATTEMPTS = 5
GROUPS = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, 0.3, 1.0, NAN]), min_size=ATTEMPTS, max_size=ATTEMPTS), min_size=1, max_size=6
)
"""Rewards of groups in which some attempts could not be scored."""

NO_GROUPS = [
    ([[1.0, 0.0]], "got list"),
    ("1, 0", "got str"),
    (None, "got NoneType"),
    (torch.zeros(3), r"got shape \(3,\)"),
    (torch.zeros(2, 3, 1), r"got shape \(2, 3, 1\)"),
    (torch.zeros(2, 0), r"at least one attempt, got shape \(2, 0\)"),
    (torch.zeros(2, 2, dtype=torch.complex64), "got torch.complex64"),
]
"""What are no groups of rewards, and what the error says."""


ALMOST = torch.nextafter(torch.tensor(0.3), torch.tensor(1.0)).item()
"""0.3 as another way of computing it in float32 might have it."""


def scored(group: list[float]) -> list[float]:
    """The rewards that count, by hand."""
    return [reward for reward in group if math.isfinite(reward)]


def lists_every_default(kind: str, name: str, made: Any) -> bool:
    """Does the config build this, with every field at its default?"""
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / kind / f"{name}.yaml"))
    defaults = {field.name: field.default for field in dataclasses.fields(made)}
    same_class = get_class(config.pop("_target_")) is type(made)
    return same_class and config == defaults and instantiate({"_target_": _path(made), **config}) == made


def waits_for(action: Callable[[], Any]) -> list[str]:
    """For what ``action`` would wait on a device."""
    with Waits() as mode:
        action()
    return mode.seen


@dataclass
class Tokens:
    """Tokens of some attempts, with ratios far from 1 on both sides, for advantages of both signs."""

    log_probs: Tensor
    old: Tensor
    advantages: Tensor
    mask: Tensor

    def part(self, rows: slice) -> Tokens:
        return Tokens(self.log_probs[rows], self.old[rows], self.advantages[rows], self.mask[rows])

    def totals(self) -> Totals:
        return Totals(float(len(self.mask)), float(self.mask.sum()))


def tokens(rows: int = 6, length: int = 5, dtype: torch.dtype = torch.float64) -> Tokens:
    """Row 2 has no token, row 3 has all, row 4 has advantage 0; at the padding there is NaN."""
    random = torch.Generator().manual_seed(3)
    mask = torch.rand(rows, length, generator=random) < 0.6
    mask[2], mask[3] = False, True
    old = -3 * torch.rand(rows, length, generator=random, dtype=torch.float64)
    # Ratios from exp(-1.5) to exp(1.5): most are outside of [0.8, 1.2], some inside.
    log_probs = old + 3 * torch.rand(rows, length, generator=random, dtype=torch.float64) - 1.5
    log_probs[3] = old[3] + torch.tensor([-0.1, 0.0, 0.1, 0.22, -2.0])[:length]
    advantages = torch.tensor([1.3, -0.7, 2.0, -1.1, 0.0, 0.4], dtype=torch.float64)[:rows]
    nan = torch.where(mask, 0.0, NAN)
    log_probs, old = (log_probs + nan).to(dtype).requires_grad_(), (old + nan).to(dtype)
    return Tokens(log_probs, old, advantages.to(dtype), mask)


def surrogate(now: float, old: float, gain: float, low: float, high: float) -> float:
    """``min(ratio A, clip(ratio, 1 - low, 1 + high) A)`` of one token."""
    ratio = math.exp(now - old)
    return min(ratio * gain, min(max(ratio, 1 - low), 1 + high) * gain)


def slope(now: float, old: float, gain: float, low: float, high: float) -> float:
    """Derivative of `surrogate` by ``now``: none where clipping makes it smaller, else that of the ratio."""
    ratio = math.exp(now - old)
    if (gain > 0 and ratio > 1 + high) or (gain < 0 and ratio < 1 - low):
        return 0.0
    return ratio * gain


def by_hand(
    given: Tokens, low: float, high: float, weight: Callable[[int, int], float]
) -> tuple[float, list[list[float]], int]:
    """Loss, its gradient and the number of clipped tokens; ``weight`` is that of a token, by row and tokens of it."""
    mask, now, old = given.mask.tolist(), given.log_probs.tolist(), given.old.tolist()
    gains, loss, cut = given.advantages.tolist(), 0.0, 0
    gradient = [[0.0] * len(row) for row in mask]
    for i, row in enumerate(mask):
        for t, there in enumerate(row):
            if not there:
                continue
            share = weight(i, sum(row))
            loss -= share * surrogate(now[i][t], old[i][t], gains[i], low, high)
            gradient[i][t] = -share * slope(now[i][t], old[i][t], gains[i], low, high)
            cut += gains[i] != 0 and gradient[i][t] == 0
    return loss, gradient, cut


def _path(made: Any) -> str:
    return f"{type(made).__module__}.{type(made).__name__}"
