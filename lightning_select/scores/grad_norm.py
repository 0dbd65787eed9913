"""Gradient norm: how hard a row would pull at the last layer, without a backward pass.

For a linear last layer with weights W and bias b, a row with prediction error e = p - y and features phi has the
gradient e phi^T in W and e in b, so the norm of both together is ``||e|| sqrt(||phi||^2 + 1)``, and ``||e|| ||phi||``
where the layer has no bias. A row with tokens adds up the gradients of its tokens before the norm is taken, so tokens
that pull in opposite directions cancel, as they do in training.

References:
    Katharopoulos and Fleuret, "Not All Samples Are Created Equal: Deep Learning with Importance Sampling", ICML 2018,
    arXiv:1803.00942, section 3.2: ``||e||`` bounds the norm of the whole gradient up to a factor common to all rows.

Deviations:
    The features are an addition; they make the norm that of the last layer, exactly, instead of a bound. For rows
    without tokens and without features this is `EL2N`. For rows with tokens but without features it is the exact norm
    of the gradient in b alone, which is no bound any more: prefer ``features=True`` there. Constant factors of the
    loss (one over the rows, or over all tokens of the batch) and of the logits (a temperature) are left out; a longer
    row pulls harder and scores higher. Class weights and label smoothing are no part of the signals, so the norm is
    that of the plain cross entropy: under class weights the true one is the score times the weight of the row's class,
    and the ranks of rows change with it; under smoothing ``e`` is ``p - ((1 - s) y + s / classes)``, and no factor
    common to all rows leads from one to the other. ``pos_weight`` of a sigmoid loss is left out likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.scores.el2n import prediction_errors
from lightning_select.signals.base import Signals
from lightning_select.types import Bool, Float, Num

__all__ = ["GradNorm", "grad_norm"]


def grad_norm(
    logits: Float[Tensor, "rows *tokens classes"],
    targets: Num[Tensor, "rows *rest"],
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    hidden: Float[Tensor, "rows *tokens features"] | None = None,
    *,
    link: Literal["softmax", "sigmoid"] = "softmax",
    biased: bool = True,
) -> Float[Tensor, "rows"]:
    """``|| sum_t e_t (phi_t, 1)^T ||`` over the valid tokens t, or ``|| sum_t e_t ||`` without hidden state.

    The one belongs to the bias and is left out where the layer is not ``biased``. The square is
    ``sum_st (e_s . e_t)(phi_s . phi_t + 1)``, so two matrices of tokens by tokens are enough; the gradient itself, as
    large as the layer for every row, is never formed. A row without valid tokens has norm 0.
    """
    rows = logits.shape[0]
    errors = prediction_errors(logits, targets, valid, link=link).reshape(rows, -1, logits.shape[-1])
    if hidden is None:
        return torch.linalg.vector_norm(errors.sum(dim=1), dim=-1)
    features = hidden.float()
    if valid is not None:  # an error of 0 does not silence features that are not finite
        features = torch.where(valid.unsqueeze(-1), features, 0.0)
    features = features.reshape(rows, -1, features.shape[-1])
    with torch.autocast(errors.device.type, enabled=False):
        products = (errors @ errors.mT) * (features @ features.mT + float(biased))
    return products.sum(dim=(1, 2)).clamp(min=0.0).sqrt()


@dataclass(frozen=True)
class GradNorm:
    """Score rows by the norm of their gradient in the last layer.

    Args:
        features: Multiply in the input of the last layer, for the exact norm where the loss has neither class weights
            nor label smoothing. Needs the hidden state, and memory of
            rows by tokens by tokens. Otherwise logits are enough.

    Raises:
        ArgumentError: A value is out of range.
        MissingSignalError: The step shows no logits or targets, or no hidden state where ``features`` is on.

    Example:
        >>> signals = Signals(logits=torch.zeros(1, 2), targets=torch.tensor([0]), hidden=torch.tensor([[1.0, 1.0]]))
        >>> GradNorm()(signals).tolist(), GradNorm(features=True)(signals).tolist()
        ([0.7071067690849304], [1.2247449159622192])
    """

    features: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.features, bool):
            raise ArgumentError(f"GradNorm.features must be true or false, got {self.features!r}.")

    @property
    def needs(self) -> frozenset[str]:
        """The hidden state only where it is used."""
        return frozenset({"logits", "targets", "hidden"} if self.features else {"logits", "targets"})

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        logits, targets = signals.need("logits", "GradNorm"), signals.need("targets", "GradNorm")
        hidden = signals.need("hidden", "GradNorm") if self.features else None
        return grad_norm(logits, targets, signals.valid, hidden, link=signals.link, biased=signals.biased)
