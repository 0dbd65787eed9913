"""Peer selection: of a batch of pairs, keep those that the other reward model is surest of.

The margin of a pair is the reviewer's score of the chosen completion less that of the rejected one. A network fits the
pairs that agree with each other first, so that early in training a small or negative margin mostly means a pair whose
labels were swapped. The model that learns from a batch does not choose from it, or it would confirm its own mistakes.

Know before use:
    ``noise`` is a guess of the share of swapped pairs. Too low a guess leaves swapped pairs in; too high a one leaves
    hard pairs out for good. Linear models gain nothing: they do not fit the pairs that agree any sooner.
    Margins are ranked within the batch that a call is given, so the share of swapped pairs among those kept varies
    from batch to batch; scales of the two models are never compared.

References:
    "Two Minds Better Than One: Collaborative Reward Modeling for LLM Alignment", 2025, arXiv:2505.10597: two reward
    models that select each other's pairs by margin, with a curriculum.
    Han et al., "Co-teaching: Robust training of deep neural networks with extremely noisy labels", NeurIPS 2018,
    arXiv:1804.06872, algorithm 1: the keep rate ``1 - noise * min(1, epoch / warm_up)``.

Deviations:
    The constants of the collaborative reward models are not public to us; the schedule is that of co-teaching. The
    number kept is rounded up, and at least one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.types import Float, Int

__all__ = ["PeerSelect", "peer_select"]


def peer_select(margins: Float[Tensor, "rows"], keep: int | float) -> Int[Tensor, "kept"]:
    """Positions of the ``ceil(keep * rows)`` pairs with the largest margins, at least one, in the order of the batch.

    Of equal margins the earlier row wins. A margin of plus infinity is the surest, one that is not a number the least
    sure of all.
    """
    # Not a product alone: 0.07 * 100 is a little more than 7.
    count = min(len(margins), max(1, math.ceil(keep * len(margins) - 1e-9)))
    margins = margins.detach().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    return margins.argsort(descending=True, stable=True)[:count].sort().values


@dataclass(frozen=True)
class PeerSelect:
    """Keep all pairs at first, and ever fewer until only the share ``1 - noise`` is left.

    Attributes:
        noise: The share of pairs that is left out in the end, in [0, 1); 0 keeps everything, for ever.
        warm_up: Epochs until then; 0 is from the first step on.

    Example:
        >>> import torch
        >>> PeerSelect(noise=0.5, warm_up=2).keep_rate(1)
        0.75
        >>> PeerSelect(noise=0.5)(torch.tensor([0.3, -2.0, 1.5, 0.1]), epoch=4).tolist()
        [0, 2]
    """

    noise: int | float = 0.2
    warm_up: int | float = 1.0

    def __post_init__(self) -> None:
        for name, ceiling in (("noise", 1.0), ("warm_up", math.inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < ceiling:
                rule = "in [0, 1)" if ceiling == 1 else "a finite number of epochs, at least 0"
                raise ArgumentError(f"PeerSelect.{name} must be {rule}, got {value!r}.")

    def keep_rate(self, epoch: int) -> float:
        """The share of pairs to keep in this epoch, counted from 0."""
        return 1 - self.noise * (min(1.0, epoch / self.warm_up) if self.warm_up else 1.0)

    def __call__(self, margins: Float[Tensor, "rows"], epoch: int) -> Int[Tensor, "kept"]:
        """The pairs to keep, by the reviewer's margins of them."""
        return peer_select(margins, self.keep_rate(epoch))
