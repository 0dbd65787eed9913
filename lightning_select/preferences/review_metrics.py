"""What is worth a curve: which pairs are kept, whether both models would keep the same, how often they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_select.preferences.pair_loss import pair_loss
from lightning_select.types import Bool, Float, Int

__all__ = ["agreement", "evaluation", "kept_metrics"]


def kept_metrics(
    kept: Sequence[Int[Tensor, "kept"] | None], reviews: Sequence[Float[Tensor, "rows"]], marks: Sequence[Any]
) -> dict[str, Tensor | float]:
    """Means over both models' batches.

    Args:
        kept: Positions kept of each batch; ``None``: all.
        reviews: Margins of each batch by its reviewer.
        marks: For each batch, which of its pairs are swapped; ``None`` where nobody knows.

    Returns:
        ``kept`` (share), ``margin_kept``, ``margin_dropped`` (where pairs are dropped), and ``clean_kept``, the share
        of pairs that are not swapped among those kept.
    """
    inside = [_mask(index, margins) for index, margins in zip(kept, reviews, strict=True)]
    rows = sum(len(one) for one in reviews)
    count = sum(len(margins if index is None else index) for index, margins in zip(kept, reviews, strict=True))
    every = torch.cat(list(reviews)).detach()
    mask = torch.cat(inside)
    told: dict[str, Tensor | float] = {"kept": count / rows, "margin_kept": torch.where(mask, every, 0).sum() / count}
    if count < rows:
        told["margin_dropped"] = torch.where(mask, 0, every).sum() / (rows - count)
    if all(isinstance(one, Tensor) for one in marks):
        told["clean_kept"] = (mask & ~torch.cat(list(marks)).bool()).sum() / count
    return told


def agreement(
    kept: Sequence[Int[Tensor, "kept"]], would: Sequence[Int[Tensor, "kept"]], rows: Sequence[int]
) -> Float[Tensor, ""]:
    """Of the pairs that one model keeps, the share that the other one would keep too."""
    both = [
        _within(mine, count) & _within(theirs, count) for mine, theirs, count in zip(kept, would, rows, strict=True)
    ]
    return torch.cat(both).sum() / sum(len(one) for one in kept)


def evaluation(margins: Sequence[Float[Tensor, "rows"]]) -> Mapping[str, Float[Tensor, ""]]:
    """Mean loss of both models, and the share of pairs that each, and the mean of their scores, has the right way."""
    one, other = margins
    right = {"acc_1": one, "acc_2": other, "acc": (one + other) / 2}
    loss = (pair_loss(one).mean() + pair_loss(other).mean()) / 2
    return {"loss": loss, **{name: (margin > 0).float().mean() for name, margin in right.items()}}


def _mask(index: Int[Tensor, "kept"] | None, margins: Float[Tensor, "rows"]) -> Bool[Tensor, "rows"]:
    if index is None:
        return torch.ones_like(margins, dtype=torch.bool)
    return _within(index, len(margins))


def _within(index: Int[Tensor, "kept"], rows: int) -> Bool[Tensor, "rows"]:
    return torch.zeros(rows, dtype=torch.bool, device=index.device).index_fill_(0, index, True)
