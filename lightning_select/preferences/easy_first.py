"""A curriculum of pairs: train on those that both reward models are sure of first, and on more of them every epoch.

The mean margin of a pair in the epoch before says how easy it is. Both models go through the same pool, so that neither
runs ahead of the other, which is to review it.

Know before use:
    The first epoch goes through all pairs, since nothing is known of any. A pair outside of the pool keeps its old
    margin, until the growing pool takes it in. Wrong pairs stay out for longer, and so do hard ones that are right.

References:
    "Two Minds Better Than One: Collaborative Reward Modeling for LLM Alignment", 2025, arXiv:2505.10597: easy pairs
    first, with a curriculum that keeps two reward models in step.

Deviations:
    The schedule is ours: the share ``begin + (1 - begin) * epoch / epochs``, at most 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.types import Float, Int

__all__ = ["EasyFirst", "easy_first"]


def easy_first(margins: Float[Tensor, "pairs"], share: int | float) -> Int[Tensor, "pool"]:
    """The ``ceil(share * pairs)`` pairs with the largest margins, at least one, the easiest first.

    A margin that is not a number is not known, and such pairs come before all others, so that it will be. Of equal
    margins the earlier pair comes first.
    """
    count = min(len(margins), max(1, math.ceil(share * len(margins) - 1e-9)))
    known = torch.where(margins.isnan(), math.inf, margins)
    return known.argsort(descending=True, stable=True)[:count]


@dataclass(frozen=True)
class EasyFirst:
    """Restrict the pairs of an epoch to a growing share of the easiest, and maybe go through these from easy to hard.

    Attributes:
        begin: The share at epoch 0, in (0, 1].
        epochs: Epochs after which all pairs take part again.
        stages: The pool is cut from easy to hard into so many parts, which are gone through in turn, each in random
            order; 1 is one random order of all.

    Example:
        >>> EasyFirst(begin=0.6, epochs=4).share(2)
        0.8
        >>> easy_first(torch.tensor([0.5, -1.0, 2.0, 0.1]), 0.5).tolist()
        [2, 0]
    """

    begin: int | float = 0.6
    epochs: int | float = 4.0
    stages: int = 1

    def __post_init__(self) -> None:
        for name, low, high, rule in (
            ("begin", 0.0, 1.0, "in (0, 1]"),
            ("epochs", 0.0, math.inf, "a number of epochs above 0"),
        ):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low < value <= high:
                raise ArgumentError(f"EasyFirst.{name} must be {rule}, got {value!r}.")
        if isinstance(self.stages, bool) or not isinstance(self.stages, int) or self.stages < 1:
            raise ArgumentError(f"EasyFirst.stages must be a whole number, at least 1, got {self.stages!r}.")

    def share(self, epoch: int) -> float:
        """The share of the pairs that takes part in this epoch, counted from 0."""
        return min(1.0, self.begin + (1 - self.begin) * epoch / self.epochs)

    def __call__(self, margins: Float[Tensor, "pairs"], epoch: int) -> Int[Tensor, "pool"]:
        """The pairs of this epoch, the easiest first; all of them while nothing is known of any."""
        return easy_first(margins, 1.0 if bool(margins.isnan().all()) else self.share(epoch))
