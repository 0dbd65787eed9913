"""How far the model prefers the label of a row to every other class.

References:
    Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020,
    arXiv:2001.10528, section 3.1: the margin of a row is the logit of its label less the largest other logit.
    Swayamdipta et al., "Dataset Cartography: Mapping and Diagnosing Datasets with Training Dynamics", EMNLP 2020,
    arXiv:2009.10795, section 2: confidence is the probability of the label.

Deviations:
    One logit with a sigmoid is a class against a logit of zero; a target between 0 and 1 is none of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_select.signals.base import Signals
from lightning_select.types import Float, Shaped, Tensor

__all__ = ["Margins", "margins_of"]


@dataclass(frozen=True)
class Margins:
    """What the logits of one visit say about each row; NaN where a row has no target that counts.

    Attributes:
        values: One column for each of `Margins.NAMES`.
    """

    NAMES = ("margin", "confidence", "agreed", "label", "suggestion")

    values: Float[Tensor, "rows columns"]

    @property
    def margin(self) -> Float[Tensor, "rows"]:
        """Logit of the label less the largest other one."""
        return self.values[:, 0]

    @property
    def confidence(self) -> Float[Tensor, "rows"]:
        """Probability of the label."""
        return self.values[:, 1]

    @property
    def agreed(self) -> Float[Tensor, "rows"]:
        """1 where the label has the largest logit, else 0."""
        return self.values[:, 2]

    @property
    def label(self) -> Float[Tensor, "rows"]:
        """Class of the row as a number."""
        return self.values[:, 3]

    @property
    def suggestion(self) -> Float[Tensor, "rows"]:
        """The class with the largest logit among the others."""
        return self.values[:, 4]


def margins_of(signals: Signals) -> Margins | None:
    """Margins of rows that are one prediction each; ``None`` for other rows, or without logits and targets.

    Args:
        signals: ``logits`` of shape (rows, classes) and ``targets``; with a sigmoid also one logit per row.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.5], [0.0, 2.0, 5.0]])
        >>> margins_of(Signals(logits=logits, targets=torch.tensor([0, 1]))).margin.tolist()
        [2.0, -3.0]
    """
    logits, targets = signals.logits, signals.targets
    if logits is None or targets is None or logits.shape[0] != targets.shape[0]:
        return None
    logits = logits.detach().float()
    if signals.link == "sigmoid":
        return _of_sigmoid(logits.reshape(logits.shape[0], -1), targets.reshape(targets.shape[0], -1))
    if logits.dim() != 2 or logits.shape[1] < 2:
        return None
    classes = targets.argmax(dim=1) if targets.dim() == 2 and targets.shape == logits.shape else targets
    if classes.dim() != 1:
        return None
    valid = signals.valid
    counts = torch.ones_like(classes, dtype=torch.bool) if valid is None else valid.reshape(-1)
    return _of_softmax(logits, classes.long().clamp(0, logits.shape[1] - 1), counts & logits.isfinite().all(dim=1))


def _of_softmax(logits: Float[Tensor, "rows classes"], label: Tensor, counts: Tensor) -> Margins:
    place = label[:, None]
    own = logits.gather(1, place).squeeze(1)
    largest, suggestion = logits.scatter(1, place, -torch.inf).max(dim=1)
    confidence = (own - logits.logsumexp(dim=1)).exp()
    found = torch.stack([own - largest, confidence, (own > largest).float(), label.float(), suggestion.float()], dim=1)
    return Margins(torch.where(counts[:, None], found, torch.nan))


def _of_sigmoid(logits: Shaped[Tensor, "rows labels"], targets: Shaped[Tensor, "rows labels"]) -> Margins | None:
    if logits.shape != targets.shape or logits.shape[1] != 1:
        return None
    label = (targets[:, 0] > 0.5).float()
    margin = torch.where(label > 0, logits[:, 0], -logits[:, 0])
    found = torch.stack([margin, torch.sigmoid(margin), (margin > 0).float(), label, 1.0 - label], dim=1)
    counts = logits.isfinite() & ((targets == 0) | (targets == 1))
    return Margins(torch.where(counts, found, torch.nan))
