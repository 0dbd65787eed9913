"""Nuclear norm: the sum of the singular values of a row's logits, large where tokens get large and varied logits.

It is had without the logits: with hidden states ``H`` and an output head ``W`` the squared singular values of
``H @ W.T`` are the eigenvalues of ``H (W.T W) H.T``, which is as small as the row has tokens.

Know before use: the raw norm grows with the number of tokens, so it prefers long rows (``length`` divides that out);
it changes when a constant is added to all logits, which changes no probability (``centre`` removes that); and confident
predictions have large logits, so a model trained from scratch is fed what it has already learned. It is made for
fine-tuning a pretrained model, together with a selector that looks for variety.

References:
    Zou, Mao, Qu, Wang and Ji, "Utility-Diversity Aware Online Batch Selection for LLM Supervised Fine-tuning", 2025,
    arXiv:2510.16882: the intra-sample score of UDS. Official code: github.com/gfyddha/UDS.
    Nakatsukasa, Bai and Gygi, "Optimizing Halley's iteration for computing the matrix polar decomposition", SIAM J.
    Matrix Anal. Appl. 31(5), 2010: scaling a polar iteration by a bound on the smallest singular value.

Deviations:
    The official code takes every token, prompt and padding included; here the default is the tokens that the loss
    counts, and ``tokens="all"`` leaves padding out where the batch tells it. ``centre`` and ``length`` are additions,
    off by default. Singular values come from a Gram matrix in float64, which the device must have, instead of a
    decomposition of the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.signals.base import Signals
from lightning_select.signals.head.head import Head
from lightning_select.types import Bool, Float

__all__ = ["NuclearNorm", "nuclear_norm", "sum_of_roots"]

_LIFT = 4e-15
"""What is added to the diagonal of a Gram matrix of norm one, so that rounding leaves it positive."""

_SMALLEST = 1e-6
"""Singular values below this share of the largest count for less than they are: most of them are rounding."""


def nuclear_norm(
    logits: Float[Tensor, "rows *tokens classes"] | Head,
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    centre: bool = False,
    length: Literal["none", "sqrt", "linear"] = "none",
) -> Float[Tensor, "rows"]:
    """``sum_j sigma_j`` of the matrix of tokens by classes; without tokens, the Euclidean norm of the logits.

    A row without valid tokens has norm 0, and one with a valid logit that is not finite is NaN.
    """
    head = logits if isinstance(logits, Head) else Head.of(logits)
    used = torch.ones(head.shape[:-1], dtype=torch.bool, device=head.device) if valid is None else valid
    gram = head.gram(used, centre=centre)
    finite = gram.isfinite().flatten(1).all(dim=1)
    gram = torch.where(finite[:, None, None], gram, 0.0)  # one such row would fail the solver for all
    norms = torch.where(finite, sum_of_roots(gram), torch.nan)
    if length != "none":
        counted = used.reshape(len(norms), -1).sum(dim=1).clamp(min=1)
        norms = norms / (counted.sqrt() if length == "sqrt" else counted)
    return norms.float()


def sum_of_roots(gram: Float[Tensor, "rows side side"], *, by_products: bool | None = None) -> Float[Tensor, "rows"]:
    """Sum of the square roots of the eigenvalues of positive semidefinite matrices.

    Args:
        gram: The matrices, float64.
        by_products: Use matrix products only, which needs no word from the device; ``None`` does so everywhere but on
            the CPU, where the eigenvalue solver is faster.
    """
    if gram.shape[-1] == 1:
        return gram[:, 0, 0].clamp(min=0.0).sqrt()
    if by_products is None:
        by_products = gram.device.type != "cpu"
    if not by_products:
        return torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt().sum(dim=1)
    size = torch.linalg.matrix_norm(gram)
    scale = torch.where(size > 0, size, 1.0)[:, None, None]
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky_ex(gram / scale + _LIFT * eye).L
    polar, lowest = factor, _SMALLEST
    while lowest < 1 - 1e-12:
        # The best multiple of x (3 - x^2) / 2 for values in [lowest, 1]: it takes both ends to the same value.
        stretch = 3.0 / (1.0 + lowest + lowest**2)
        lowest = min(1.0, lowest * math.sqrt(stretch) * (3.0 - stretch * lowest**2) / 2.0)
        polar = math.sqrt(stretch) * polar @ (1.5 * eye - 0.5 * stretch * (polar.mT @ polar))
    return (factor * polar).sum(dim=(1, 2)) * size.sqrt()


@dataclass(frozen=True)
class NuclearNorm:
    """Score rows by the nuclear norm of their logits. Needs no labels but to tell the tokens that the loss counts.

    Nothing waits for the device. The smaller of tokens and features decides the cost, and the product of the head's
    weights with themselves is made again only when they change.

    Args:
        tokens: ``answer`` takes the tokens that the loss counts, ``all`` takes the prompt as well; padding too, unless
            the batch has an ``attention_mask``.
        centre: Subtract from every token the mean of its logits over the classes.
        length: Divide by nothing (``none``), by the root of the number of tokens taken (``sqrt``) or by that number
            (``linear``).

    Raises:
        ArgumentError: A value is out of range.
        MissingSignalError: The step shows no logits.

    Example:
        >>> NuclearNorm()(Signals(logits=torch.tensor([[[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]]))).tolist()
        [7.0]
    """

    tokens: Literal["answer", "all"] = "answer"
    centre: bool = False
    length: Literal["none", "sqrt", "linear"] = "none"

    needs: ClassVar[frozenset[str]] = frozenset({"head"})
    for_pretrained: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.tokens not in ("answer", "all"):
            raise ArgumentError(f"NuclearNorm.tokens must be one of answer, all, got {self.tokens!r}.")
        if not isinstance(self.centre, bool):
            raise ArgumentError(f"NuclearNorm.centre must be true or false, got {self.centre!r}.")
        if self.length not in ("none", "sqrt", "linear"):
            raise ArgumentError(f"NuclearNorm.length must be one of none, sqrt, linear, got {self.length!r}.")

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        valid = signals.valid if self.tokens == "answer" else signals.attended
        return nuclear_norm(signals.output_head("NuclearNorm"), valid, centre=self.centre, length=self.length)
