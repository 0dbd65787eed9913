"""Loss: the rows that the model gets most wrong are the most useful.

References:
    Loshchilov and Hutter, "Online Batch Selection for Faster Training of Neural Networks", 2015, arXiv:1511.06343.
    Jiang et al., "Accelerating Deep Learning by Focusing on the Biggest Losers", 2019, arXiv:1910.00762.

Deviations:
    None in the score. With label noise the largest losses are mostly wrong labels: then take `ReducibleLoss`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_select.signals.base import Signals
from lightning_select.types import Float

__all__ = ["Loss", "loss"]


def loss(losses: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """The loss itself, in the unit of the training loss."""
    return losses


@dataclass(frozen=True)
class Loss:
    """Score rows by their loss.

    Raises:
        MissingSignalError: The rows come without losses (a ``selection_step`` that returns none).

    Example:
        >>> import torch
        >>> Loss()(Signals(loss=torch.tensor([0.1, 2.0]))).tolist()
        [0.10000000149011612, 2.0]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        return loss(signals.need("loss", "Loss"))
