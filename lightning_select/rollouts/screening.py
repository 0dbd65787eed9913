"""Screening: a few attempts at every prompt first, the rest only where those promise something.

References:
    Zhang et al., "SPEED-RL: Faster Training of Reasoning Models via Online Curriculum Learning", 2025,
    arXiv:2506.09016; official code github.com/Zanette-Labs/speed-rl.

Deviations:
    Both phases belong to one round, so that all attempts are of one policy; the official code continues old prompts
    together with screening new ones, one update or more later. Every attempt of every prompt is reported, also of those
    given up, so that statistics stay unbiased. The attempts trained on still contain those that were selected by: a
    prompt of which 5 % of the attempts are right passes "4 attempts, some right and some wrong" with 27 % right on
    average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.passing import passing
from lightning_select.rollouts.zero_variance import ZeroVariance
from lightning_select.types import Bool, Float

__all__ = ["Screening"]


@dataclass(frozen=True)
class Screening:
    """Screen prompts by their first attempts.

    Args:
        attempts: How many at every prompt; at least two, and fewer than a group has in the end.
        group_filter: Which groups of that many promise something, a filter of this package or any function
            ``rewards (groups, attempts) -> bool (groups,)``.

    Raises:
        ArgumentError: A value is out of range.
    """

    attempts: int = 4
    group_filter: Callable[[Tensor], Any] = field(default_factory=ZeroVariance)

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 2:
            raise ArgumentError(f"Screening.attempts must be a whole number of at least 2, got {self.attempts!r}.")
        if not callable(self.group_filter) or isinstance(self.group_filter, type):
            raise ArgumentError(f"Screening.group_filter must be callable and no class, got {self.group_filter!r}.")

    def promising(self, rewards: Float[Tensor, "groups attempts"]) -> Bool[Tensor, "groups"]:
        """Which groups are worth the rest of the attempts."""
        return passing(self.group_filter, rewards).any(dim=1)
