"""K-center: rows such that no row of the candidate batch is far from a chosen one.

One row after the other is taken, each time the one farthest from its nearest chosen row. The largest distance that is
left is at most twice what the best choice of as many rows could reach.

Know before use: the farthest rows are the strange ones, so outliers and broken inputs come early. With ``score_weight``
above 0 a row's utility counts as well, in units of distance, and the guarantee is gone.

References:
    Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018,
    arXiv:1708.00489, algorithm 1 (greedy).

Deviations:
    The paper chooses from a pool of unlabelled rows, starting from those that have labels; here each candidate batch
    starts from nothing, with the row of the best score. The score in the distance, and rows with tokens, which stand
    for the mean of their valid tokens, are additions. The refinement by mixed integer programming is left out.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.protocols import SelectionContext
from lightning_select.schedule import Anneal
from lightning_select.signals.base import Signals
from lightning_select.types import Float, Int, Selection

__all__ = ["KCenter", "k_center", "row_features"]

_MOST = 1e38
"""Distances and scores count at most so much, which leaves room below them for rows that cannot be used."""


def k_center(
    features: Float[Tensor, "rows dims"], scores: Float[Tensor, "rows"], count: int, score_weight: float = 0.0
) -> Int[Tensor, "count"]:
    """Rows in the order of choice: the best score first, then the largest ``distance + score_weight * score``.

    The distance is the one to the nearest chosen row. Equal totals: the earlier row. Rows without finite features or
    score come last, the earlier one first.
    """
    usable = features.isfinite().all(dim=1) & scores.isfinite()
    features = torch.where(usable.unsqueeze(1), features, 0.0).float()
    utility = torch.where(usable, scores, 0.0).float()
    total, distance = utility, torch.full_like(utility, torch.inf)
    taken, chosen = torch.zeros_like(utility), []
    for _ in range(count):
        keys = torch.where(usable, total.clamp(-_MOST, _MOST), -2 * _MOST) + taken
        pick = keys.argmax(dim=0, keepdim=True)
        chosen.append(pick)
        taken.index_fill_(0, pick, -torch.inf)
        # Distances by differences: exactly zero for a copy, which products of features cannot promise.
        away = torch.linalg.vector_norm(features - features.index_select(0, pick), dim=1)
        distance = torch.minimum(distance, away)
        total = distance + score_weight * utility
    return torch.cat(chosen)


def row_features(signals: Signals, name: Literal["hidden", "logits"], owner: str) -> Float[Tensor, "rows dims"]:
    """The signal ``name`` as one vector per row: with tokens the mean of the valid ones, NaN for a row without any.

    Raises:
        MissingSignalError: The signal was not measured.
    """
    values, valid = signals.need(name, owner).detach(), signals.valid
    values = values.reshape(len(values), -1, values.shape[-1])
    if valid is None:
        return values.mean(dim=1, dtype=torch.float32)
    valid = valid.reshape(*values.shape[:2], 1)
    return torch.where(valid, values, 0.0).sum(dim=1, dtype=torch.float32) / valid.sum(dim=1)


@dataclass(frozen=True)
class KCenter:
    """Keep rows that leave no row far from a chosen one.

    Equal totals: the earlier row. Rows that are not finite, or have no finite score or no valid token, come last. A
    copy of a chosen row comes after all rows that are no copies, as long as the score does not count.

    Args:
        features: Distances are between inputs of the last layer (``hidden``) or between ``logits``.
        score_weight: What one unit of the score is worth in units of distance; 0 is k-center alone, where the score
            decides only which row comes first. May be an `Anneal`.

    Raises:
        ArgumentError: A value is out of range.
        MissingSignalError: The step shows no such features.

    Example:
        >>> k_center(torch.tensor([[0.0], [1.0], [7.0], [8.0]]), torch.tensor([0.0, 1.0, 0.0, 0.0]), 2).tolist()
        [1, 3]
    """

    features: Literal["hidden", "logits"] = "hidden"
    score_weight: float | Anneal = 0.0

    with_replacement: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.features not in ("hidden", "logits"):
            raise ArgumentError(f"KCenter.features must be one of hidden, logits, got {self.features!r}.")
        weight = self.score_weight
        for value in (weight.begin, weight.end) if isinstance(weight, Anneal) else (weight,):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= sys.float_info.max:
                raise ArgumentError(f"KCenter.score_weight must be a finite number, at least 0, got {value!r}.")

    @property
    def needs(self) -> frozenset[str]:
        """The features that are compared."""
        return frozenset({self.features})

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows. Called by hand, an `Anneal` counts as its begin."""
        weight = self.score_weight.begin if isinstance(self.score_weight, Anneal) else self.score_weight
        features = row_features(context.signals, self.features, "KCenter")
        return Selection(k_center(features, scores, count, weight).sort().values)
