"""Nuclear norm: the sum of the singular values of a row's logits, large where tokens get large and varied logits.

Know before use: the raw norm grows with the number of tokens, so it prefers long rows (``length`` divides that out);
it changes when a constant is added to all logits, which changes no probability (``centre`` removes that); and confident
predictions have large logits, so a model trained from scratch is fed what it has already learned. It is made for
fine-tuning a pretrained model, together with a selector that looks for variety.

References:
    Zou, Mao, Qu, Wang and Ji, "Utility-Diversity Aware Online Batch Selection for LLM Supervised Fine-tuning", 2025,
    arXiv:2510.16882: the intra-sample score of UDS. Official code: github.com/gfyddha/UDS.

Deviations:
    The official code takes every token, prompt and padding included (``tokens="all"``); here the default is the tokens
    that the loss counts. ``centre`` and ``length`` are additions, off by default. Singular values come from the smaller
    Gram matrix in float64, which the device must have, instead of a decomposition of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.signals.base import Signals
from lightning_select.types import Bool, Float

__all__ = ["NuclearNorm", "nuclear_norm"]

_AT_ONCE = 2**26
"""How many logits are held in float64 at a time: half a gigabyte."""


def nuclear_norm(
    logits: Float[Tensor, "rows *tokens classes"],
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    centre: bool = False,
    length: Literal["none", "sqrt", "linear"] = "none",
) -> Float[Tensor, "rows"]:
    """``sum_j sigma_j`` of the matrix of tokens by classes; without tokens, the Euclidean norm of the logits.

    A row without valid tokens has norm 0, and one with a valid logit that is not finite is NaN.
    """
    rows, classes = logits.shape[0], logits.shape[-1]
    matrices = logits.reshape(rows, -1, classes)
    used = torch.ones_like(matrices[..., 0], dtype=torch.bool) if valid is None else valid.reshape(rows, -1)
    at_once = max(1, _AT_ONCE // max(1, matrices[0].numel()))
    parts = zip(torch.split(matrices, at_once), torch.split(used, at_once), strict=True)
    gram = torch.cat([_gram(part, mask, centre=centre) for part, mask in parts])
    finite = gram.isfinite().flatten(1).all(dim=1)
    gram = torch.where(finite[:, None, None], gram, 0.0)  # one such row would fail the solver for all
    squares = gram[..., 0] if gram.shape[-1] == 1 else torch.linalg.eigvalsh(gram)
    norms = torch.where(finite, squares.clamp(min=0.0).sqrt().sum(dim=1), torch.nan)
    if length != "none":
        count = used.sum(dim=1).clamp(min=1)
        norms = norms / (count.sqrt() if length == "sqrt" else count)
    return norms.float()


def _gram(
    matrices: Float[Tensor, "rows tokens classes"], used: Bool[Tensor, "rows tokens"], *, centre: bool
) -> Float[Tensor, "rows side side"]:
    """Products of all pairs of tokens, or of all pairs of classes where those are fewer."""
    matrices = matrices.to(torch.float64, copy=True)
    if centre:
        matrices -= matrices.mean(dim=-1, keepdim=True)
    matrices.masked_fill_(~used.unsqueeze(-1), 0.0)
    tokens, classes = matrices.shape[1:]
    return matrices @ matrices.mT if tokens <= classes else matrices.mT @ matrices


@dataclass(frozen=True)
class NuclearNorm:
    """Score rows by the nuclear norm of their logits. Needs no labels.

    The eigenvalue solver reports failure to the host, so on a GPU rows with tokens cost one wait per batch.

    Args:
        tokens: ``answer`` takes the tokens that the loss counts, ``all`` takes padding and prompt as well.
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

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __post_init__(self) -> None:
        if self.tokens not in ("answer", "all"):
            raise ArgumentError(f"NuclearNorm.tokens must be one of answer, all, got {self.tokens!r}.")
        if not isinstance(self.centre, bool):
            raise ArgumentError(f"NuclearNorm.centre must be true or false, got {self.centre!r}.")
        if self.length not in ("none", "sqrt", "linear"):
            raise ArgumentError(f"NuclearNorm.length must be one of none, sqrt, linear, got {self.length!r}.")

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        logits = signals.need("logits", "NuclearNorm")
        valid = signals.valid if self.tokens == "answer" else None
        return nuclear_norm(logits, valid, centre=self.centre, length=self.length)
