"""Importance sampling: draw rows in proportion to their scores, and weigh them so that the expected gradient stays.

The mean of ``weight * gradient`` over the drawn rows is, on average, the mean gradient of the candidate batch; its
variance is least when scores are gradient norms. Where scores hardly differ there is little to win, so the method waits
until they do, and draws uniformly in the meantime.

References:
    Katharopoulos and Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance Sampling", ICML 2018,
    arXiv:1803.00942, algorithm 1. Official code: github.com/idiap/importance-sampling.

Deviations:
    The batch at hand counts in the running mean that decides about it; the paper decides with the mean up to the batch
    before. The candidate batch is scored while the draw is uniform, too, since the callback scores before it selects.
    ``floor`` keeps weights bounded; the estimate is unbiased with and without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.protocols import SelectionContext
from lightning_select.selectors.draw import draw_distinct, draw_repeated
from lightning_select.types import Float, Selection

__all__ = ["Importance", "importance"]


def importance(scores: Float[Tensor, "rows"], floor: float) -> Float[Tensor, "rows"]:
    """Chance of each row, ``s / sum(s)`` with ``s = max(score, 0) + floor * mean(max(score, 0))``.

    A row without a finite score has none. The others are equal where no score is positive, and where no score is
    finite, all rows are.
    """
    known = scores.isfinite()
    useful = torch.where(known, scores, 0.0).float().clamp(min=0.0)
    useful = useful / useful.amax().clamp(min=torch.finfo(torch.float32).tiny)  # so that sums cannot overflow
    chances = torch.where(known, useful + floor * useful.sum() / known.sum().clamp(min=1), 0.0)
    chances = torch.where(chances.sum() > 0, chances, (known | ~known.any()).float())
    return (chances / chances.sum()).to(scores.dtype)


@dataclass(frozen=True)
class Importance:
    """Draw rows with replacement in proportion to their scores, with weights ``1 / (candidates * chance)``.

    That holds while the running mean of ``tau = sqrt(B sum s^2) / sum s`` is above ``threshold``. Tau is 1 for equal
    scores and grows as they differ: with gradient norms as scores, the second moment of the estimate falls by its
    square. Up to the threshold rows are drawn uniformly, without replacement and with weight 1. Weights are at most
    ``1 + 1 / floor``. Rows without a finite score are never drawn, or last where the draw is uniform. Each process has
    a running mean of its own.

    Args:
        threshold: Tau above which the method is on; ``None`` is ``(B + 3 b) / (3 b)`` for b of B candidates, where the
            paper expects to win more time than scoring takes, and 0 is always.
        smoothing: Share of the running mean that stays at each step. The mean starts at 0.
        floor: Least score of a row, as a share of the mean score.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> import torch
        >>> importance(torch.tensor([3.0, 1.0, -1.0, 0.0]), floor=0.0).tolist()
        [0.75, 0.25, 0.0, 0.0]
    """

    threshold: float | None = None
    smoothing: float = 0.9
    floor: float = 0.01

    needs: ClassVar[frozenset[str]] = frozenset()
    with_replacement: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.threshold is not None:
            _check("threshold", self.threshold, math.inf, "a finite number, at least 0, or None")
        _check("smoothing", self.smoothing, 1.0, "in [0, 1)")
        _check("floor", self.floor, math.inf, "a finite number, at least 0")

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows."""
        rows = scores.shape[0]
        threshold = (rows + 3 * count) / (3 * count) if self.threshold is None else self.threshold
        chances = importance(scores.float(), self.floor)
        known = scores.isfinite()
        candidates = torch.where(known.any(), known.sum(), rows)
        tau = (candidates * chances.square().sum()).sqrt()
        before = context.state.get("tau", torch.zeros_like(tau))
        if before.shape != () or not before.is_floating_point():
            raise ArgumentError(f"Importance.tau must be a number, got shape {tuple(before.shape)} from a checkpoint.")
        tau = self.smoothing * before + (1 - self.smoothing) * tau
        on = tau > threshold
        uniform = torch.where(known, 0.0, -torch.inf)
        repeated = draw_repeated(chances, count, context.generator)
        distinct = draw_distinct(uniform, count, context.generator)
        index = torch.where(on, repeated, distinct)
        weight = torch.where(on, 1 / (candidates * chances.index_select(0, index)), 1.0)
        return Selection(index, weight.to(scores.dtype), {"tau": tau})


def _check(name: str, value: float, end: float, rule: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < end:
        raise ArgumentError(f"Importance.{name} must be {rule}, got {value!r}.")
