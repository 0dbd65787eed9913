"""Band (balanced difficulty): rows of middling difficulty first, neither nearly always nor nearly never solved.

Scores are solve rates in [0, 1]. A row that is always or never solved gives no signal to training on rewards, since all
its attempts have the same reward. How much the others give is largest near one half, but one half is not a law: with
binary rewards and temperature ``b``, the divergence between the policy and its optimum is largest at a solve rate of
``b - 1 / (exp(1 / b) - 1)``, which is 0.42 for b = 1 and 0.10 for b = 0.1, and nears one half only as b grows.

References:
    Bae et al., "Online Difficulty Filtering for Reasoning Oriented Reinforcement Learning", EACL 2026,
    arXiv:2504.03380: balanced filtering, which keeps rows with ``low <= solve rate <= high``.

Deviations:
    The paper draws prompts until enough are in the band; here the number of rows is constant and the batch is what it
    is. So the rows nearest to the middle of the band win when too many are in it, and the nearest ones outside fill up
    when too few are. As the band lies evenly around its middle, the rows chosen depend on the middle alone: ``low`` and
    ``high`` matter by where they are centred, and say what is meant by qualifying. The default thresholds are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.protocols import SelectionContext
from lightning_select.types import Float, Int, Selection

__all__ = ["Band", "band"]

_GRID = 1e6
"""Distances are compared to six decimals: .4 and .6 are equally far from .5, though not in float32."""


def band(scores: Float[Tensor, "rows"], count: int, low: float, high: float) -> Int[Tensor, "count"]:
    """Positions of ``count`` rows, those in [low, high] first, nearest to the middle first, in the order of the batch.

    Of rows at equal distance the earlier one wins. Scores that are not finite come last.
    """
    distance = ((scores.double() - (low + high) / 2).abs() * _GRID).round()
    # What is in the band is nearer to its middle than what is not, so that one order serves both.
    return distance.argsort(stable=True)[:count].sort().values


@dataclass(frozen=True)
class Band:
    """Keep the rows whose score is in a band, or as near to its middle as can be had.

    All scores equal: the first rows. Rows without a finite score come last.

    Args:
        low: Lowest solve rate in the band.
        high: Highest solve rate in the band.

    Raises:
        ArgumentError: Not ``0 <= low < high <= 1``.

    Example:
        >>> import torch
        >>> band(torch.tensor([0.0, 0.4, 1.0, 0.7, 0.5]), 2, low=0.25, high=0.75).tolist()
        [1, 4]
    """

    low: float = 0.25
    high: float = 0.75

    needs: ClassVar[frozenset[str]] = frozenset()
    with_replacement: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ArgumentError(f"Band.{name} must be a solve rate in [0, 1], got {value!r}.")
        if self.low >= self.high:
            raise ArgumentError(f"Band.low must be below Band.high ({self.high}), got {self.low}.")

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows."""
        return Selection(band(scores, count, self.low, self.high))
