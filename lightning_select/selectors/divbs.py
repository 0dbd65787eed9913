"""DivBS (diversified batch selection): rows that together explain the gradient of the whole candidate batch.

One row after the other is taken: the one whose gradient in the last layer has the largest inner product with what is
left of the sum of all gradients. Then its direction is removed from what is left, so a row that would repeat it has
nothing more to offer. Gradients are outer products of prediction errors and features, so their inner products are known
without them: the greedy choice is a pivoted Cholesky factorisation of a matrix of rows by rows.

Know before use: a wrong label pulls hard and in a direction of its own, so with label noise those rows come early. The
score decides nothing but which rows cannot be used.

References:
    Hong, Lyu, Yao, Zhang, Tsang and Wang, "Diversified Batch Selection for Training Acceleration", ICML 2024,
    arXiv:2406.04872: the greedy choice, with the correlations of its official code, github.com/Feng-Hong/DivBS.

Deviations:
    The official code draws each row in proportion to its correlation and not the largest one (here ``draw="sample"``),
    forms all gradients, may take a row twice, and fills up by chance when no correlation is left; here the rest follows
    by its correlation with the whole sum. Rows with tokens, soft targets and sigmoid outputs are additions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.protocols import SelectionContext
from lightning_select.scores.el2n import prediction_errors
from lightning_select.types import Bool, Float, Int, Selection

__all__ = ["DivBS", "divbs", "last_layer_gram"]

_AT_ONCE = 2**24
"""How many numbers of an intermediate result are held at a time: 64 megabytes."""

_SPANNED = 1e-5
"""A row of which less than this share of its squared norm is left is a combination of rows that were chosen."""

_LOW = 1e30
"""Separates the rows that are chosen for what they add from those that follow when nothing is left to add."""


def divbs(
    gram: Float[Tensor, "rows rows"],
    count: int,
    usable: Bool[Tensor, "rows"],
    noise: Float[Tensor, "count rows"] | None = None,
) -> Int[Tensor, "count"]:
    """Rows in the order of choice: the largest ``|<g_i, r>|``, r being what the chosen ones leave of the sum.

    The matrix holds ``<g_i, g_j>``, with zeros for rows that are not usable, and r is the sum of all gradients less its
    projection on the chosen ones. Equal correlations, up to one part in a million: the earlier row. Rows that are
    combinations of chosen ones follow by ``|<g_i, sum>|``, and those that are not usable come last. With ``noise`` of
    the exponential distribution, the largest ``|<g_i, r>| / noise`` is a draw in proportion to ``|<g_i, r>|``.
    """
    gram, tiny = gram.detach(), torch.finfo(gram.dtype).tiny
    left, pull = gram.diagonal().clone(), gram.sum(dim=1)
    first, least = pull.abs() / pull.abs().amax().clamp(min=tiny), _SPANNED * left
    later = torch.where(usable, first - 2, -3.0) * _LOW
    basis = gram.new_zeros(count, gram.shape[0])
    chosen = []
    for number in range(count):
        gain = pull.abs() if noise is None else pull.abs() / noise[number]
        pick = _earliest_best(torch.where(left > least, gain, later))
        chosen.append(pick)
        known, size = basis[:number], left.index_select(0, pick)
        scale = torch.where(size > least.index_select(0, pick), size.clamp(min=tiny).rsqrt(), 0.0)
        # How far every gradient goes in the direction that the chosen row adds to those before.
        share = basis[number]
        with torch.autocast(gram.device.type, enabled=False):
            column = torch.addmm(gram.index_select(0, pick), known.index_select(1, pick).T, known, alpha=-1)
        torch.mul(column[0], scale, out=share)
        pull.addcmul_(share, pull.index_select(0, pick) * scale, value=-1)
        left.addcmul_(share, share, value=-1).index_fill_(0, pick, 0.0)
        later.index_fill_(0, pick, -torch.inf)
    return torch.cat(chosen)


def _earliest_best(keys: Float[Tensor, "rows"]) -> Int[Tensor, "1"]:
    """The first of those rows whose keys are the largest, up to one part in a million.

    Sums of products come out differently, in the last digits, for equal rows at different places.
    """
    best = keys.amax()
    return (keys >= torch.sub(best, best.abs(), alpha=1e-6)).view(torch.uint8).argmax(dim=0, keepdim=True)


def last_layer_gram(
    errors: Float[Tensor, "rows *tokens classes"], hidden: Float[Tensor, "rows *tokens features"]
) -> Float[Tensor, "rows rows"]:
    """Inner products of ``g_i = sum_t e_t phi_t^T`` without the gradients, rows by classes by features, at once.

    Without tokens ``(e_i . e_j)(phi_i . phi_j)``. With tokens whatever takes fewer operations: that product summed over
    pairs of tokens, for some pairs of rows at a time, or the gradients of some classes at a time. Either holds at most
    2^24 numbers at a time, or a single pair of rows (tokens squared), or a single class (rows by features).
    """
    rows, classes, features = errors.shape[0], errors.shape[-1], hidden.shape[-1]
    errors, hidden = errors.reshape(rows, -1, classes), hidden.reshape(rows, -1, features)
    tokens = errors.shape[1]
    with torch.autocast(errors.device.type, enabled=False):
        if tokens == 1 or rows * tokens**2 * (classes + features) < 2 * (rows + tokens) * classes * features:
            return _by_pairs(errors, hidden, max(1, min(128, math.isqrt(_AT_ONCE) // tokens)))
        gram = errors.new_zeros(rows, rows)
        for part in torch.split(errors, max(1, _AT_ONCE // (rows * features)), dim=2):
            gradients = (part.mT @ hidden).flatten(1)
            gram += gradients @ gradients.mT
        return gram


def _by_pairs(
    errors: Float[Tensor, "rows tokens classes"], hidden: Float[Tensor, "rows tokens features"], side: int
) -> Float[Tensor, "rows rows"]:
    """``sum_st (e_s . e_t)(phi_s . phi_t)``, by blocks of ``side`` by ``side`` rows; half of them mirror the others."""
    rows, tokens = errors.shape[:2]
    gram = errors.new_empty(rows, rows)
    parts = [slice(start, start + side) for start in range(0, rows, side)]
    for number, left in enumerate(parts):
        for right in parts[number:]:
            products = errors[left].flatten(0, 1) @ errors[right].flatten(0, 1).mT
            products *= hidden[left].flatten(0, 1) @ hidden[right].flatten(0, 1).mT
            if tokens > 1:
                products = products.reshape(-1, tokens, products.shape[1] // tokens, tokens).sum(dim=(1, 3))
            gram[left, right] = products
            gram[right, left] = products.T
    return gram


@dataclass(frozen=True)
class DivBS:
    """Keep the rows whose gradients in the last layer together come nearest to the sum of all gradients.

    Rows without a finite score or gradient are no part of the sum and come last. Without tokens memory is of rows by
    rows, with tokens see `last_layer_gram`; a token that is not valid has no gradient.

    Args:
        draw: ``argmax`` takes the row of largest correlation with what is left of the sum, ``sample`` draws a row in
            proportion to it.

    Raises:
        ArgumentError: A value is out of range.
        MissingSignalError: The step shows no logits, targets or hidden state.

    Example:
        >>> gradients = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
        >>> divbs(gradients @ gradients.T, 2, torch.tensor([True, True, True])).tolist()
        [0, 2]
    """

    draw: Literal["argmax", "sample"] = "argmax"

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "targets", "hidden"})
    with_replacement: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.draw not in ("argmax", "sample"):
            raise ArgumentError(f"DivBS.draw must be one of argmax, sample, got {self.draw!r}.")

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows."""
        signals = context.signals
        logits, targets, hidden = (signals.need(name, "DivBS").detach() for name in ("logits", "targets", "hidden"))
        errors, features = prediction_errors(logits, targets, signals.valid, link=signals.link), hidden.float()
        if signals.valid is not None:  # an error of 0 does not silence features that are not finite
            features = torch.where(signals.valid.unsqueeze(-1), features, 0.0)
        peaks = [values.flatten(1).abs().amax(dim=1) for values in (errors, features)]
        usable = scores.isfinite() & peaks[0].isfinite() & peaks[1].isfinite()
        gram = last_layer_gram(_within_one(errors, peaks[0], usable), _within_one(features, peaks[1], usable))
        noise = None
        if self.draw == "sample":
            noise = torch.empty(count, len(scores), device=scores.device).exponential_(generator=context.generator)
            noise.clamp_(min=2**-24)
        return Selection(divbs(gram, count, usable, noise).sort().values)


def _within_one(
    values: Float[Tensor, "rows *rest"], peaks: Float[Tensor, "rows"], usable: Bool[Tensor, "rows"]
) -> Float[Tensor, "rows *rest"]:
    """Scaled so that no absolute value is above one: products neither overflow nor vanish. Zero for unusable rows."""
    scale = 1 / torch.where(usable, peaks, 0.0).amax().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(usable.reshape(-1, *[1] * (values.dim() - 1)), values, 0.0).mul_(scale)
