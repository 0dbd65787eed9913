"""Facility location: rows such that every row of the candidate batch has a similar one among the chosen.

Each row counts with its similarity to the most similar chosen row. One row after the other is taken, the one that adds
most to the sum of those numbers, which comes within ``1 - 1/e`` of the best possible sum. The first is the most central
row, the others stand for what is not covered yet: dense regions get more rows than sparse ones, and outliers few.

Know before use: time is of rows squared for every chosen row. The score decides only between rows that add the same,
and which rows cannot be used.

References:
    Mirzasoleiman, Bilmes and Leskovec, "Coresets for Data-efficient Training of Machine Learning Models" (CRAIG), ICML
    2020, arXiv:1906.01827, algorithm 1 and its weights.

Deviations:
    The paper compares gradients, of the last layer for networks, over a whole class; here features are compared over a
    candidate batch. Its constant less the distance is one less the share of the largest distance in the batch, and its
    weights, the numbers of rows that chosen ones stand for, are scaled to mean one; a row that is as similar to several
    chosen ones counts in parts. The cosine is an addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.protocols import SelectionContext
from lightning_select.selectors.k_center import row_features
from lightning_select.types import Bool, Float, Int, Selection

__all__ = ["FacilityLocation", "cluster_weights", "facility_location", "similarities"]

_ROUNDING = 1e-6
"""Similarities, which are at most one, are known up to this."""


def facility_location(
    similarity: Float[Tensor, "rows rows"], scores: Float[Tensor, "rows"], count: int
) -> Int[Tensor, "count"]:
    """Rows in the order of choice: each adds most to ``sum_i max_{j chosen} similarity_ij``.

    Equal gains, up to one part in a million: the better score, then the earlier row. (Two rows that are nearest to each
    other have the same gain.) Rows without a finite score are not to be covered and come last.
    """
    usable = scores.isfinite()
    similarity = torch.where(usable & usable.unsqueeze(1), similarity, 0.0)
    covered = torch.zeros_like(similarity[0])
    better = torch.where(usable, scores, 0.0)
    offset, chosen = torch.where(usable, 0.0, -1.0), []
    for _ in range(count):
        gains = (similarity - covered).clamp_(min=0.0).sum(dim=1) + offset
        best = gains.amax()
        equal = gains >= best - (_ROUNDING * best).clamp(min=_ROUNDING)
        pick = torch.where(equal, better, -torch.inf).argmax(dim=0, keepdim=True)
        chosen.append(pick)
        offset.index_fill_(0, pick, -torch.inf)
        covered = torch.maximum(covered, similarity.index_select(0, pick)[0])
    return torch.cat(chosen)


def similarities(
    features: Float[Tensor, "rows dims"], usable: Bool[Tensor, "rows"], kind: Literal["cosine", "distance"]
) -> Float[Tensor, "rows rows"]:
    """Between 0 and 1: half of one plus the cosine, or one less the distance as a share of the largest.

    Rows that are all alike have similarity 1, and a row of zeros is at right angles to all others.
    """
    # In float64, where copies are at distance 0 up to 1e-8 of their length; in float32 that would be 3e-4.
    features = torch.where(usable.unsqueeze(1), features, 0.0).double()
    with torch.autocast(features.device.type, enabled=False):
        if kind == "cosine":
            unit = torch.nn.functional.normalize(features, dim=1, eps=torch.finfo(torch.float64).tiny)
            similarity = (1 + unit @ unit.mT) / 2
        else:
            products = features @ features.mT
            squares = products.diagonal()
            distance = (squares + squares.unsqueeze(1) - 2 * products).clamp(min=0.0).sqrt()
            distance = torch.where(usable & usable.unsqueeze(1), distance, 0.0)
            similarity = 1 - distance / distance.amax().clamp(min=torch.finfo(torch.float64).tiny)
    return similarity.fill_diagonal_(1.0).float()


def cluster_weights(
    similarity: Float[Tensor, "rows rows"], chosen: Int[Tensor, "count"], usable: Bool[Tensor, "rows"]
) -> Float[Tensor, "count"]:
    """How many rows have each chosen one as the most similar, scaled to mean one; 0 for a row that is not usable.

    Where several are most similar, each gets its part. Where no row is usable, all weights are one.
    """
    able = usable.index_select(0, chosen)
    known = torch.where(able, similarity.index_select(1, chosen), -1.0)
    nearest = (known >= known.amax(dim=1, keepdim=True) - _ROUNDING) & usable.unsqueeze(1) & able
    parts = nearest / nearest.sum(dim=1, keepdim=True).clamp(min=1)
    rows = parts.sum(dim=0)
    return torch.where(able.any(), rows / rows.mean(), 1.0)


@dataclass(frozen=True)
class FacilityLocation:
    """Keep rows that are similar to all rows of the candidate batch.

    Equal gains: the better score, then the earlier row. A copy of a chosen row has nothing to add. Rows that are not
    finite, or have no finite score or no valid token, are not to be covered and come last.

    Args:
        features: What is compared: inputs of the last layer (``hidden``) or ``logits``.
        similarity: ``cosine`` of the angle, or ``distance`` taken from the largest one.
        weights: Weigh each chosen row by the number of rows that it stands for (CRAIG), with mean one. Needs automatic
            optimisation.

    Raises:
        ArgumentError: A value is out of range.
        MissingSignalError: The step shows no such features.

    Example:
        >>> features, usable = torch.tensor([[0.0], [1.0], [2.0], [9.0]]), torch.ones(4, dtype=torch.bool)
        >>> facility_location(similarities(features, usable, "distance"), torch.zeros(4), 2).tolist()
        [1, 3]
    """

    features: Literal["hidden", "logits"] = "hidden"
    similarity: Literal["cosine", "distance"] = "cosine"
    weights: bool = False

    with_replacement: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.features not in ("hidden", "logits"):
            raise ArgumentError(f"FacilityLocation.features must be one of hidden, logits, got {self.features!r}.")
        if self.similarity not in ("cosine", "distance"):
            raise ArgumentError(
                f"FacilityLocation.similarity must be one of cosine, distance, got {self.similarity!r}."
            )
        if not isinstance(self.weights, bool):
            raise ArgumentError(f"FacilityLocation.weights must be true or false, got {self.weights!r}.")

    @property
    def needs(self) -> frozenset[str]:
        """The features that are compared."""
        return frozenset({self.features})

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows."""
        features = row_features(context.signals, self.features, "FacilityLocation")
        usable = features.isfinite().all(dim=1) & scores.isfinite()
        similarity = similarities(features, usable, self.similarity)
        index = facility_location(similarity, torch.where(usable, scores, -torch.inf), count).sort().values
        return Selection(index, cluster_weights(similarity, index, usable) if self.weights else None)
