"""Which rows a classification got right."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_select.signals.base import Signals
from lightning_select.types import Float

__all__ = ["share_correct"]


def share_correct(signals: Signals, owner: str) -> Float[Tensor, "rows"]:
    """Share of right answers of each row: of its one class, its tokens that count, or its labels.

    Raises:
        MissingSignalError: There are no logits or no targets.
    """
    logits, targets = signals.need("logits", owner), signals.need("targets", owner)
    rows = logits.shape[0]
    if signals.link == "sigmoid":
        right = (logits > 0) == (targets.reshape(logits.shape) > 0.5)
    else:
        classes = targets.argmax(dim=-1) if targets.dim() == logits.dim() else targets
        right = logits.argmax(dim=-1) == classes
    right = right.reshape(rows, -1).double()
    if signals.valid is None:
        return right.mean(dim=1)
    valid = signals.valid.reshape(rows, -1)
    return torch.where(valid, right, 0.0).sum(dim=1) / valid.sum(dim=1)
