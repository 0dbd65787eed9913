"""Self-paced learning: only rows with a small loss count, and little by little all of them do.

Know before use: rows with wrong labels have large losses and come in last, if at all; so do rare and difficult rows.

References:
    Kumar, Packer and Koller, "Self-Paced Learning for Latent Variable Models", NeurIPS 2010: a row counts if its
    loss is below a threshold that grows.
    Jiang, Meng, Mitamura and Hauptmann, "Easy Samples First: Self-Paced Reranking for Zero-Example Multimedia Search",
    ACM Multimedia 2014: the linear soft weights.

Deviations:
    The threshold is the loss at a given share of the batch, not a number that is multiplied at each round: it needs no
    scale of the loss. Weights follow the current batch, without alternating between weights and parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.schedule import Anneal
from lightning_select.types import Float

__all__ = ["SelfPaced", "self_paced"]


def self_paced(losses: Float[Tensor, "rows"], share: float, *, soft: bool = False) -> Float[Tensor, "rows"]:
    """``[loss <= lambda]``, or softly ``max(0, 1 - loss / lambda)``, with lambda the largest of the smallest losses.

    These are ``share`` of all rows, at least one. Rows with a loss of lambda count all, so there may be more. Where
    every soft weight is zero, the hard ones stand in. Soft weights need losses from zero: where some are negative, all
    are measured from the smallest. Losses must be finite, as LossReweighting shows them.
    """
    values = losses.detach().float()
    values = values - values.amin().clamp(max=0.0)
    rows = values.shape[0]
    kept = min(max(int(share * rows + 0.5), 1), rows)
    threshold = values.sort().values[kept - 1]
    hard = (values <= threshold).to(losses.dtype)
    if not soft:
        return hard
    linear = (1 - values / threshold.clamp(min=torch.finfo(torch.float32).tiny)).clamp(min=0.0).to(losses.dtype)
    return torch.where(linear.amax() > 0, linear, hard)


@dataclass(frozen=True)
class SelfPaced:
    """Weigh rows with small losses by one, or the more the smaller their loss, and the others by zero.

    One row, or all losses equal: weights of one.

    Args:
        share: Share of the rows that count; by default half of them at first and all from the middle of training. May
            be an `Anneal`.
        soft: Count less and less up to the threshold, instead of fully.

    Raises:
        ArgumentError: ``share`` is not in (0, 1], or ``soft`` is not a bool.

    Example:
        >>> import torch
        >>> SelfPaced(share=0.5)(torch.tensor([0.1, 2.0, 0.4, 0.9])).tolist()
        [1.0, 0.0, 1.0, 0.0]
    """

    share: float | Anneal = field(default_factory=lambda: Anneal(begin=0.5, end=1.0, stop=0.5))
    soft: bool = False

    def __post_init__(self) -> None:
        for value in (self.share.begin, self.share.end) if isinstance(self.share, Anneal) else (self.share,):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ArgumentError(f"SelfPaced.share must be in (0, 1], got {value!r}.")
        if not isinstance(self.soft, bool):
            raise ArgumentError(f"SelfPaced.soft must be true or false, got {self.soft!r}.")

    def __call__(self, losses: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """One weight per row. Called by hand, an `Anneal` counts as its begin."""
        share = self.share.begin if isinstance(self.share, Anneal) else self.share
        return self_paced(losses, share, soft=self.soft)
