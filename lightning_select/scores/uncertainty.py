"""Uncertainty: how undecided the model is about a row, whatever the row's label says.

* entropy: ``- sum_c p_c log p_c``, in nats.
* least_confidence: ``1 - p_1``, where p_1 is the largest probability.
* margin: ``1 - (p_1 - p_2)``, where p_2 is the second largest.

All three are 0 for a certain prediction and largest where all classes are equally likely.

References:
    Settles, "Active Learning Literature Survey", Computer Sciences Technical Report 1648, University of
    Wisconsin-Madison, 2009, section 3.1.

Deviations:
    The margin is turned around, so that higher is more uncertain for all three. Under a sigmoid every number is a
    choice between two classes, and a row is the mean over its labels. Tokens are averaged over the valid ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.signals.base import Signals
from lightning_select.types import Bool, Float

__all__ = ["Uncertainty", "uncertainty"]


def uncertainty(
    logits: Float[Tensor, "rows *tokens classes"],
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    kind: Literal["entropy", "margin", "least_confidence"] = "entropy",
    link: Literal["softmax", "sigmoid"] = "softmax",
) -> Float[Tensor, "rows"]:
    """Uncertainty of each row; with tokens the mean over the valid ones, and 0 for a row without any."""
    logits, rows = logits.float(), logits.shape[0]
    if link == "sigmoid":  # sigmoid(x) and 1 - sigmoid(x) are the softmax of x and 0
        values = _of_classes(torch.stack([logits, torch.zeros_like(logits)], dim=-1), kind).mean(dim=-1)
    else:
        values = _of_classes(logits, kind)
    if valid is None:
        return values.reshape(rows, -1).mean(dim=1)
    values = torch.where(valid, values, 0.0).reshape(rows, -1)
    return values.sum(dim=1) / valid.reshape(rows, -1).sum(dim=1).clamp(min=1)


def _of_classes(
    logits: Float[Tensor, "*shape classes"], kind: Literal["entropy", "margin", "least_confidence"]
) -> Float[Tensor, "*shape"]:
    probabilities = torch.softmax(logits, dim=-1)
    if kind == "entropy":
        return torch.special.entr(probabilities).sum(dim=-1)
    # 1 - p_1 is the sum of the others, which is still right where p_1 rounds to 1.
    top, position = probabilities.max(dim=-1, keepdim=True)
    others = probabilities.scatter_(-1, position, top - top)
    unlikely = others.sum(dim=-1)
    return unlikely if kind == "least_confidence" else unlikely + others.amax(dim=-1)


@dataclass(frozen=True)
class Uncertainty:
    """Score rows by how uncertain their prediction is. Needs no labels.

    Args:
        kind: ``entropy``, ``margin`` or ``least_confidence``. They differ from three classes on: entropy looks at all
            classes, margin at the two most likely, least confidence at the most likely.

    Raises:
        ArgumentError: A value is out of range.
        MissingSignalError: The step shows no logits.

    Example:
        >>> signals = Signals(logits=torch.tensor([[0.0, 0.0], [0.0, 40.0]]))
        >>> [round(score, 3) for score in Uncertainty()(signals).tolist()]
        [0.693, 0.0]
    """

    kind: Literal["entropy", "margin", "least_confidence"] = "entropy"

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __post_init__(self) -> None:
        if self.kind not in ("entropy", "margin", "least_confidence"):
            raise ArgumentError(
                f"Uncertainty.kind must be one of entropy, margin, least_confidence, got {self.kind!r}."
            )

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        return uncertainty(signals.need("logits", "Uncertainty"), signals.valid, kind=self.kind, link=signals.link)
