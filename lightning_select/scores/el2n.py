"""EL2N: how far the predicted probabilities are from the target, as a distance between vectors.

Between 0 (certain and right) and the square root of 2 (certain of one wrong class), so one hopeless row cannot
outweigh everything else as it can with the loss.

References:
    Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet: Finding Important Examples Early in Training", NeurIPS
    2021, arXiv:2107.07075, section 2.

Deviations:
    The paper averages over about ten models early in training, to prune a dataset once. Here the model in training
    scores its own next batch. Rows with tokens, targets that are probabilities and sigmoid outputs are additions:
    tokens are averaged, and a sigmoid row is one vector with an entry per label (so up to the square root of the
    number of labels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.signals.base import Signals
from lightning_select.types import Bool, Float, Num

__all__ = ["EL2N", "el2n", "prediction_errors"]


def el2n(
    logits: Float[Tensor, "rows *tokens classes"],
    targets: Num[Tensor, "rows *rest"],
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    link: Literal["softmax", "sigmoid"] = "softmax",
) -> Float[Tensor, "rows"]:
    """``|| p(x) - y ||``; with tokens the mean over the valid ones, and 0 for a row without any."""
    rows = logits.shape[0]
    norms = torch.linalg.vector_norm(prediction_errors(logits, targets, valid, link=link), dim=-1).reshape(rows, -1)
    if valid is None:
        return norms.mean(dim=1)
    return norms.sum(dim=1) / valid.reshape(rows, -1).sum(dim=1).clamp(min=1)


def prediction_errors(
    logits: Float[Tensor, "rows *tokens classes"],
    targets: Num[Tensor, "rows *rest"],
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    link: Literal["softmax", "sigmoid"] = "softmax",
) -> Float[Tensor, "rows *tokens classes"]:
    """``p(x) - y`` in float32: the gradient of the cross entropy in the logits, and 0 at tokens that are not valid.

    A target that is no class makes its token NaN; as an index it would bring a GPU down.
    """
    logits = logits.float()
    if link == "sigmoid":
        errors = torch.sigmoid(logits) - targets.reshape(logits.shape).float()
    elif targets.dim() == logits.dim():
        errors = torch.softmax(logits, dim=-1) - targets.float()
    else:
        errors = torch.softmax(logits, dim=-1)
        index = targets.long().unsqueeze(-1)
        known = (index >= 0) & (index < logits.shape[-1])
        index = torch.where(known, index, 0)
        errors.scatter_(-1, index, errors.gather(-1, index) - torch.where(known, 1.0, torch.nan))
    return errors if valid is None else errors.masked_fill_(~valid.unsqueeze(-1), 0.0)


@dataclass(frozen=True)
class EL2N:
    """Score rows by the norm of the error of their predicted probabilities.

    Raises:
        MissingSignalError: The step shows no logits or no targets.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
        >>> [round(score, 2) for score in EL2N()(Signals(logits=logits, targets=torch.tensor([0, 0]))).tolist()]
        [0.0, 1.41]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "targets"})

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        logits, targets = signals.need("logits", "EL2N"), signals.need("targets", "EL2N")
        return el2n(logits, targets, signals.valid, link=signals.link)
