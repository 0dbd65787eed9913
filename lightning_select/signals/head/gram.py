"""Gram matrices of a row's logits, from what the logits are made of. Float64, where a float32 would lose small values.

The squares of singular values span twice as many orders of magnitude as the values: in float32 a singular value below
3e-4 of the largest one is lost, and a text of 300 tokens has many of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from lightning_select.signals.head.cache import HeadCache
from lightning_select.signals.head.terms import Linear, Term, wide
from lightning_select.types import Bool, Float

__all__ = ["linear_gram", "logits_gram", "summed_gram"]

_AT_ONCE = 2**18
"""How many numbers are held in float64 at a time: 2 MB, which stays in the caches of a processor."""

_AT_ONCE_ELSEWHERE = 2**24
"""The same on other devices, where many small products are slow: 128 MB."""

_BLOCK = 256
"""Columns per block of a symmetric product, whose other half is a copy; of many columns, a quarter."""


def linear_gram(
    term: Linear, used: Bool[Tensor, "rows tokens"], cache: HeadCache, *, centre: bool
) -> Float[Tensor, "rows side side"]:
    """``H (W.T W) H.T``, or ``C.T (H.T H) C`` with ``C C.T = W.T W`` where there are more tokens than features."""
    tokens, features = used.shape[1], term.features
    weights = tuple(part.weight for part in term.parts)
    head = cache.get(("gram", centre), weights, lambda: _head_gram(weights, centre=centre))
    if tokens > features:
        head = cache.get(("root", centre), weights, lambda: _root(head))
    found = []
    for at in _row_slices(used, tokens * features):
        hidden = torch.cat([part.hidden[at].double() for part in term.parts], dim=-1)
        hidden.masked_fill_(~used[at].unsqueeze(-1), 0.0)
        turned = hidden @ head
        found.append(turned @ hidden.mT if tokens <= features else turned.mT @ turned)
    return torch.cat(found)


def logits_gram(
    term: Term, used: Bool[Tensor, "rows tokens"], classes: int, *, centre: bool
) -> Float[Tensor, "rows side side"]:
    """From the logits of a few rows at a time: products of tokens, or of classes where those are fewer."""
    found = []
    for at in _row_slices(used, used.shape[1] * classes):
        part = term.carry(lambda values, at=at: values[at])  # type: ignore[misc]
        logits = part.chunk(0, classes).to(torch.float64, copy=True)
        if centre:
            logits -= logits.mean(dim=-1, keepdim=True)
        logits.masked_fill_(~used[at].unsqueeze(-1), 0.0)
        found.append(logits @ logits.mT if used.shape[1] <= classes else logits.mT @ logits)
    return torch.cat(found)


def summed_gram(
    term: Term, used: Bool[Tensor, "rows tokens"], classes: int, *, centre: bool
) -> Float[Tensor, "rows tokens tokens"]:
    """Products of tokens, summed over the classes a few at a time; all logits are never there at once."""
    rows, tokens = used.shape
    gram = torch.zeros(rows, tokens, tokens, dtype=torch.float64, device=used.device)
    total = gram.new_zeros(rows, tokens, 1)
    width = max(1, _at_once(used.device) // max(1, used.numel()))
    for begin in range(0, classes, width):
        logits = wide(term.chunk(begin, min(begin + width, classes))).double()
        logits = logits.masked_fill(~used.unsqueeze(-1), 0.0)
        gram += logits @ logits.mT
        total += logits.sum(dim=-1, keepdim=True)
    return gram - total @ total.mT / classes if centre else gram


def _head_gram(weights: tuple[Float[Tensor, "classes _"], ...], *, centre: bool) -> Float[Tensor, "features features"]:
    """``W.T W`` of all layers side by side, with the mean over the classes taken out of ``W`` if asked for."""
    features, classes = sum(weight.shape[1] for weight in weights), weights[0].shape[0]
    gram = torch.zeros(features, features, dtype=torch.float64, device=weights[0].device)
    total = gram.new_zeros(features)
    block = max(_BLOCK, -(-features // 4))
    edges = [slice(at, min(at + block, features)) for at in range(0, features, block)]
    width = max(1, _at_once(gram.device) // features)
    for begin in range(0, classes, width):
        piece = torch.cat([weight[begin : begin + width].detach().double() for weight in weights], dim=1)
        total += piece.sum(dim=0)
        for left, right in combinations_with_replacement(edges, 2):
            gram[left, right] += piece[:, left].T @ piece[:, right]
    gram = gram.triu() + gram.triu(1).T
    return gram - torch.outer(total, total) / classes if centre else gram


def _root(gram: Float[Tensor, "features features"]) -> Float[Tensor, "features features"]:
    """A factor ``C`` with ``C C.T = gram``. The diagonal is lifted by what rounding may have taken from it."""
    lift = gram.diagonal().sum() * 1e-14
    lifted = gram + torch.where(lift > 0, lift, 1.0) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.cholesky_ex(lifted).L


def _row_slices(used: Bool[Tensor, "rows tokens"], numbers: int) -> Iterator[slice]:
    """Rows such that ``numbers`` per row are not too many at once."""
    step = max(1, _at_once(used.device) // max(1, numbers))
    for at in range(0, max(1, used.shape[0]), step):
        yield slice(at, at + step)


def _at_once(device: torch.device) -> int:
    return _AT_ONCE if device.type == "cpu" else _AT_ONCE_ELSEWHERE
