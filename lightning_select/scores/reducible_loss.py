"""Reducible loss (RHO-LOSS): what training on a row can still win, its loss minus that under a reference model.

References:
    Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt", ICML
    2022, arXiv:2206.07137, equation 3. Official code: github.com/OATML/RHO-Loss.

Deviations:
    The candidate batch is scored in evaluation mode by default; the official code scores in training mode
    (``BatchSelection(train_mode=True)``). Without a holdout set the reference is trained by cross-scoring two halves
    (`Holdout`); the paper also trains smaller reference models, which a module or checkpoint given here may be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from lightning_select.signals.base import Signals
from lightning_select.signals.holdout import Holdout
from lightning_select.types import Float

__all__ = ["ReducibleLoss", "reducible_loss"]


def reducible_loss(losses: Float[Tensor, "rows"], reference: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """``L[y | x; D_t] - L[y | x; D_ho]``: negative where the model already knows the row better than the reference."""
    return losses - reference


@dataclass(frozen=True)
class ReducibleLoss:
    """Score rows by their reducible loss.

    Args:
        reference: Irreducible losses: a table by row id (tensor, array, ``{id: loss}`` or a file), a module with a
            ``training_step``, the path of a checkpoint of the module in training, or a `Holdout`, which trains
            reference models first. With augmented data a table holds the losses of one view of each row.

    Raises:
        MissingSignalError: The rows come without losses.
        ReferenceModelError: The reference does not fit the module or the dataset, or knows less than the model.
        RowIdError: The reference is a table and a row has no id in it.
    """

    reference: Any = field(default_factory=Holdout)

    needs: ClassVar[frozenset[str]] = frozenset({"loss", "reference_loss"})

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        losses = signals.need("loss", "ReducibleLoss")
        return reducible_loss(losses, signals.need("reference_loss", "ReducibleLoss"))
