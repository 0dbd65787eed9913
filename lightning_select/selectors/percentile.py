"""Percentile (Selective Backprop): rows are drawn by chance, the more often the higher they rank in the batch.

Know before use: with wrong labels the largest losses are mostly those of wrong labels, which this rule prefers.

References:
    Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019, arXiv:1910.00762: the
    chance of a row is ``CDF(loss)^beta``. Code with a constant number of rows: Composer, SelectiveBackprop.

Deviations:
    As in Composer, rows rank within their batch and a constant number of them is drawn without replacement. The paper
    ranks among the last 1024 losses, decides row by row, and collects the chosen ones until they fill a batch. Equal
    scores share one rank, so their order in the batch does not matter; Composer ranks them in the order of its sort.
    Composer acts between 50 % and 90 % of training and leaves out every second batch: here that is the ``Schedule`` of
    the callback.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.protocols import SelectionContext
from lightning_select.schedule import Anneal
from lightning_select.selectors.draw import draw_distinct
from lightning_select.types import Float, Selection

__all__ = ["Percentile", "percentile"]


def percentile(scores: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """``(i + 1/2) / N`` of the i-th smallest of N scores; equal scores get the mean of theirs.

    A score that is not finite has percentile 0 and does not count among the N.
    """
    known = scores.isfinite()
    unknown = (~known).sum()
    scores = torch.where(known, scores, -torch.inf)
    ordered = scores.sort().values
    worse = torch.searchsorted(ordered, scores)
    not_better = torch.searchsorted(ordered, scores, right=True)
    doubled = worse + not_better - 2 * unknown
    share = doubled / (2 * (scores.shape[0] - unknown)).clamp(min=1)
    return torch.where(known, share, 0.0).to(scores.dtype)


@dataclass(frozen=True)
class Percentile:
    """Draw rows without replacement, in proportion to ``percentile ** pressure``.

    All scores equal: a uniform draw. Rows without a finite score come last.

    Args:
        pressure: How much a high rank matters: 0 draws uniformly, infinity would be `TopK`. ``None`` is
            ``1 / keep - 1``, where keep is the share of the batch that is drawn; may be an `Anneal`.

    Raises:
        ArgumentError: ``pressure`` is negative or not a finite number.

    Example:
        >>> import torch
        >>> percentile(torch.tensor([3.0, 1.0, 3.0, 9.0])).tolist()
        [0.5, 0.125, 0.5, 0.875]
    """

    pressure: float | Anneal | None = None

    needs: ClassVar[frozenset[str]] = frozenset()
    with_replacement: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for value in (
            (self.pressure.begin, self.pressure.end) if isinstance(self.pressure, Anneal) else (self.pressure,)
        ):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value < math.inf):
                raise ArgumentError(
                    f"Percentile.pressure must be a finite number, at least 0, or None for 1 / keep - 1, got {value!r}."
                )

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows. Called by hand, an `Anneal` counts as its begin."""
        pressure = self.pressure.begin if isinstance(self.pressure, Anneal) else self.pressure
        if pressure is None:
            pressure = scores.shape[0] / count - 1
        log_share = percentile(scores.float()).log()
        # Not log_share * pressure alone: without pressure, minus infinity would become NaN.
        log_chances = torch.where(log_share > -torch.inf, log_share * pressure, -torch.inf)
        return Selection(draw_distinct(log_chances, count, context.generator))
