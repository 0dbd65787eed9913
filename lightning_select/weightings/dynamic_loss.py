"""Dynamic loss reweighting: each row counts by where its loss stands between the smallest and the largest of the batch.

Know before use: ``linupper`` and ``upper`` put weight on large losses, so they help where large losses are rare and
useful rows, and do harm where they are wrong labels. Among few rows the method is sharp: of two, ``linupper`` at
temperature 0.4 gives one 92 % of the weight, however little their losses differ. One outlier takes the top of the range
to itself: of 31 losses near 3.2 and one of 30, the latter has 27 % of the weight. ``quantiles=(0.0, 0.95)`` mends that:
the range ends there, and what lies beyond counts as its end.

References:
    Sow, Woisetschläger, Bulusu, Wang, Jacobsen and Liang, "Dynamic Loss-Based Sample Reweighting for Improved Large
    Language Model Pretraining", ICLR 2025, arXiv:2502.06733, algorithm 1. Official code:
    github.com/sowmaster/Sample-Level-Loss-Reweighting-ICLR-2025.

Deviations:
    Quantiles are an addition. ``uniform`` is exactly uniform; in the README of the official code it is not, since there
    the position itself is exponentiated. A spread of losses that is only rounding gives uniform weights; the official
    code magnifies it. Weights are per row, not per token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.looking import may_look
from lightning_select.schedule import Anneal
from lightning_select.types import Bool, Float

__all__ = ["DynamicLoss", "dynamic_loss"]

Strategy = Literal["linupper", "quadratic", "extremes", "upper", "uniform"]

_STRATEGIES = ("linupper", "quadratic", "extremes", "upper", "uniform")


def dynamic_loss(
    losses: Float[Tensor, "rows"],
    strategy: Strategy,
    temperature: float,
    quantiles: tuple[float, float] | None = None,
) -> Float[Tensor, "rows"]:
    """``N softmax(f(h) / r)`` with ``h = 2 (loss - low) / (high - low) - 1`` clamped to [-1, 1]; the mean is one.

    ``low`` and ``high`` are the smallest and the largest loss, or the two quantiles. All weights are 1 where their
    distance is below ``1e-4 max(1, |high|)``. A row whose loss is not finite has no weight and does not count: the
    others have mean one among themselves.
    """
    values = losses.detach().float()
    if quantiles is None and may_look(values.device):
        weights = _of_finite(values, strategy, temperature)
        if weights is not None:
            return weights.to(losses.dtype)
    # What is not finite lies infinitely far below the range, where softmax gives it no weight.
    values = values.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    finite = values > -torch.inf
    if strategy == "uniform":
        return finite.to(losses.dtype)
    low, high = _range(values, finite, quantiles)
    above, spread = values - low, high - low
    if quantiles is not None:
        above = torch.minimum(above.clamp(min=0.0), spread)
    exponent = _exponent(above / spread, strategy, temperature)
    if quantiles is not None or strategy == "extremes":
        exponent = exponent.masked_fill(~finite, -torch.inf)
    weights = torch.softmax(exponent, dim=0) * finite.sum()
    wide = spread >= (high * 1e-4).abs().clamp(min=1e-4)
    return torch.where(wide, weights, finite).to(losses.dtype)


def _of_finite(values: Float[Tensor, "rows"], strategy: Strategy, temperature: float) -> Float[Tensor, "rows"] | None:
    """The weights, at a third of the operations, where the losses turn out to be finite; looks at the range."""
    low, high = (float(end) for end in values.aminmax())
    spread = high - low
    if not math.isfinite(spread):
        return None
    if strategy == "uniform" or spread < max(1e-4, abs(high * 1e-4)):
        return torch.ones_like(values)
    return torch.softmax(_exponent((values - low) / spread, strategy, temperature), dim=0) * values.numel()


def _range(
    values: Float[Tensor, "rows"], finite: Bool[Tensor, "rows"], quantiles: tuple[float, float] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The smallest and the largest finite value, or two quantiles, linear between neighbours."""
    up = values.nan_to_num(neginf=torch.inf)
    if quantiles is None:
        return up.amin(), values.amax()
    ordered, last = up.sort().values, (finite.sum() - 1).clamp(min=0)
    places = values.new_tensor(quantiles) * last
    below = places.long()
    start, stop = ordered.gather(0, below), ordered.gather(0, torch.minimum(below + 1, last))
    low, high = torch.lerp(start, stop, places - below).unbind()
    return low, high


def _exponent(share: Float[Tensor, "rows"], strategy: Strategy, temperature: float) -> Float[Tensor, "rows"]:
    """``f(h) / r``, where ``share`` of the range of losses lies below a row, so that ``h = 2 share - 1``."""
    if strategy == "linupper":
        return (share * (2 / temperature)).clamp(max=1 / temperature)
    if strategy == "quadratic":
        return (1 - (share * 2 - 1).square()) / temperature
    if strategy == "extremes":
        return (share * 2 - 1).abs() / temperature
    return share / temperature


@dataclass(frozen=True)
class DynamicLoss:
    """Weigh rows by the place of their loss in the range of losses. The ratio of extreme weights is ``exp(1 / r)``.

    One row, or all losses equal: weights of one.

    Args:
        strategy: Who counts least: ``linupper`` small losses, linearly up to the middle of the range; ``upper`` small
            losses, linearly up to the top; ``quadratic`` both ends; ``extremes`` the middle; ``uniform`` nobody.
        temperature: ``r``: 0.4 makes the largest weight 12 times the smallest, 1e6 makes all alike. May be an `Anneal`.
        quantiles: Two quantiles of the losses that take the place of the smallest and the largest one; kept as a tuple.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> import torch
        >>> DynamicLoss("linupper", temperature=1.0)(torch.tensor([1.0, 3.0, 9.0])).round(decimals=2)
        tensor([0.5600, 0.9200, 1.5200])
    """

    normalised: ClassVar[bool] = True

    strategy: Strategy = "linupper"
    temperature: float | Anneal = 0.4
    quantiles: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.strategy not in _STRATEGIES:
            raise ArgumentError(f"DynamicLoss.strategy must be one of {', '.join(_STRATEGIES)}, got {self.strategy!r}.")
        r = self.temperature
        for value in (r.begin, r.end) if isinstance(r, Anneal) else (r,):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise ArgumentError(f"DynamicLoss.temperature must be a finite number above 0, got {value!r}.")
        if self.quantiles is not None:
            object.__setattr__(self, "quantiles", _checked(self.quantiles))

    def __call__(self, losses: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """One weight per row. Called by hand, an `Anneal` counts as its begin."""
        temperature = self.temperature.begin if isinstance(self.temperature, Anneal) else self.temperature
        quantiles = None if self.quantiles is None else (self.quantiles[0], self.quantiles[1])
        return dynamic_loss(losses, self.strategy, temperature, quantiles)


def _checked(quantiles: Sequence[float]) -> tuple[float, float]:
    """Both quantiles as a tuple: a config has them as a list."""
    pair = tuple(quantiles) if isinstance(quantiles, Sequence) else ()
    numbers = all(isinstance(share, (int, float)) and not isinstance(share, bool) for share in pair)
    if len(pair) != 2 or not numbers or not 0 <= pair[0] < pair[1] <= 1:
        raise ArgumentError(
            f"DynamicLoss.quantiles must be two numbers with 0 <= low < high <= 1, or None, got {quantiles!r}."
        )
    return float(pair[0]), float(pair[1])
