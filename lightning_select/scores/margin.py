"""Margin: how far the logit of the target is below the largest of the others.

Positive where the prediction is wrong, negative where it is right, and the more so the surer the model is. Unlike a
loss it does not level off once a row is right, and unlike `Uncertainty` it knows the target.

References:
    Pleiss, Zhang, Elenberg and Weinberger, "Identifying Mislabeled Data using the Area Under the Margin Ranking",
    NeurIPS 2020, arXiv:2001.10528, equation 1: ``M(x, y) = z_y(x) - max_{i != y} z_i(x)``.

Deviations:
    The score is ``-M``, so that the hardest row is the highest, as with a loss. The paper averages M over the epochs
    of a finished training, to find wrong labels (`SelectionReport` does that); here it is that of the model in
    training. Targets that are probabilities weigh the margins of the classes, a label under a sigmoid is a choice
    between its logit and 0, and tokens and labels are averaged. All of these are additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.signals.base import Signals
from lightning_select.types import Bool, Float, Num

__all__ = ["Margin", "margin"]


def margin(
    logits: Float[Tensor, "rows *tokens classes"],
    targets: Num[Tensor, "rows *rest"],
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    link: Literal["softmax", "sigmoid"] = "softmax",
) -> Float[Tensor, "rows"]:
    """``max_{i != y} z_i - z_y`` in float32; with tokens the mean over the valid ones, and 0 for a row without any.

    A target that is no class makes its token NaN, as in `el2n`. Where there is one class, it is 0.
    """
    logits, rows = logits.float(), logits.shape[0]
    if link == "sigmoid":
        short = (logits * (1.0 - 2.0 * targets.reshape(logits.shape).float())).mean(dim=-1)
    else:
        behind = _largest_other(logits) - logits
        if targets.dim() == logits.dim():
            # A class with no share counts for nothing, even where its logit is infinite.
            short = (behind * targets.float()).masked_fill(targets == 0, 0.0).sum(dim=-1)
        else:
            index = targets.long()
            known = (index >= 0) & (index < logits.shape[-1])
            short = behind.gather(-1, torch.where(known, index, 0).unsqueeze(-1)).squeeze(-1)
            short = torch.where(known, short, torch.nan)
    if valid is None:
        return short.reshape(rows, -1).mean(dim=1)
    short = torch.where(valid, short, 0.0).reshape(rows, -1)
    return short.sum(dim=1) / valid.reshape(rows, -1).sum(dim=1).clamp(min=1)


def _largest_other(logits: Float[Tensor, "*shape classes"]) -> Float[Tensor, "*shape classes"]:
    """For each class, the largest logit of the other classes."""
    if logits.shape[-1] == 1:
        return logits
    top, position = logits.topk(2, dim=-1)
    others = top[..., :1].expand_as(logits).clone()
    return others.scatter_(-1, position[..., :1], top[..., 1:])


@dataclass(frozen=True)
class Margin:
    """Score rows by how far their target is behind the strongest other class, in logits.

    Raises:
        MissingSignalError: The step shows no logits or no targets.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 5.0]])
        >>> Margin()(Signals(logits=logits, targets=torch.tensor([0, 1]))).tolist()
        [-2.0, 4.0]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "targets"})

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        logits, targets = signals.need("logits", "Margin"), signals.need("targets", "Margin")
        return margin(logits, targets, signals.valid, link=signals.link)
