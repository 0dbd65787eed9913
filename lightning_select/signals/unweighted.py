"""Say of each kind of step what of its loss belongs to no row of the batch."""

from __future__ import annotations

from torch import nn

from lightning_select.compat import rank_zero_info
from lightning_select.signals.layout.probe import StepShape

__all__ = ["Unweighted"]


class Unweighted:
    """Tells the user about the rest of the loss of one module.

    Args:
        module: Whose step it is.
    """

    def __init__(self, module: nn.Module) -> None:
        self._owner = f"{type(module).__name__}.training_step"
        self._said = False

    def tell(self, shape: StepShape, *, accumulates: bool) -> None:
        """Of a step that was just probed; ``accumulates``: does it add gradients by itself?"""
        if shape.left_out > 0:
            rank_zero_info(
                f"{self._owner}: {shape.left_out:.1%} of the loss does not belong to rows of the batch "
                f"({shape.others}). It counts for no row and stays unweighted."
            )
        if accumulates and not self._said:
            self._said = True
            rank_zero_info(
                f"{self._owner} adds gradients by a backward() of its own. They count for no row and stay unweighted."
            )
