"""Sketches: the logits of a row as a few numbers, such that distances between rows are kept.

A row's logits are a matrix of tokens by classes. Its classes are reduced to a few numbers by random signs and some rows
of the real orthonormal Fourier matrix; then its tokens are, in the same way, with signs of its own for each of those
numbers. Rows of the Fourier matrix come as pairs of a cosine and a sine of the same frequency, drawn without
replacement: so a difference in a single logit keeps its length exactly, and any other difference keeps its square on
average over the signs. Classes can be projected where the output head is, so the logits need not exist.

Know before use: one seed is one projection. Where all differences lie in one direction of the classes, all their
lengths are off by the same share: about 6 % with 128 dimensions.

References:
    Zou, Mao, Qu, Wang and Ji, "Utility-Diversity Aware Online Batch Selection for LLM Supervised Fine-tuning", 2025,
    arXiv:2510.16882: the projection of both sides. Official code: github.com/gfyddha/UDS.

Deviations:
    The official projection is neither orthonormal nor drawn without replacement: its distances grow with
    ``sqrt(tokens * classes) / 2``. It has one sign per token, which leaves what all tokens have in common to the few
    dimensions of the token side. It has no mask, and a token's column of the projection goes by its position in the
    padded row; here only valid tokens count, and the column goes by a token's number among those of its row. Rows
    longer than the projection are an error there; here its columns are used again with new signs. Signs and frequencies
    are a function of the seed alone, the same on every device.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from lightning_select.seeding import STEP, mixed
from lightning_select.signals.head.head import Head
from lightning_select.types import Bool, Float, Int

__all__ = ["sketch"]


def sketch(
    head: Head,
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    vocabulary_dims: int = 128,
    token_dims: int = 8,
    max_tokens: int = 4096,
    seed: int = 0,
) -> Float[Tensor, "rows dims"]:
    """Logits as a few numbers; NaN for a row without a valid token.

    Classes that are no more than ``vocabulary_dims`` are left as they are, and so is the side of tokens where rows have
    none. Padding on either side, and a prompt that is not valid, change nothing but the rounding.

    Args:
        head: The logits, or ``Head.of(logits)``.
        valid: Which tokens count; ``None`` means all.
        vocabulary_dims: Numbers to which the classes of a token are reduced; even.
        token_dims: Numbers to which the tokens of a row are reduced; even.
        max_tokens: Number of valid tokens up to which the projection is orthonormal.
        seed: Seed of the projection.
    """
    rows, tokens, device = head.shape[0], head.tokens, head.device
    used = torch.ones(rows, tokens, dtype=torch.bool, device=device) if valid is None else valid.reshape(rows, tokens)
    narrow = torch.where(used.unsqueeze(-1), _narrow(head, vocabulary_dims, seed), 0.0)
    if len(head.shape) > 2:
        place, dims = torch.arange(tokens, device=device), narrow.shape[2]
        signs = _signs(torch.arange(tokens * dims, device=device), f"tokens {seed}").reshape(tokens, dims)
        columns = _columns(place, max_tokens, token_dims, f"tokens {seed}")
        if valid is not None:
            number = (used.cumsum(dim=1) - 1).clamp(min=0).flatten()
            signs, columns = (t.index_select(0, number).reshape(rows, tokens, -1) for t in (signs, columns))
        with torch.autocast(device.type, enabled=False):
            narrow = columns.mT @ (narrow * signs)
    return torch.where(used.any(dim=1, keepdim=True), narrow.flatten(1), torch.nan).detach()


def _narrow(head: Head, dims: int, seed: int) -> Float[Tensor, "rows tokens dims"]:
    """The classes reduced to ``dims`` numbers, or all of them where they are no more."""
    if head.classes <= dims:
        return head.logits().float().reshape(head.shape[0], head.tokens, head.classes)
    place = torch.arange(head.classes, device=head.device)
    name = f"classes {seed}"
    return head.narrow(
        ("sketch", dims, seed), lambda: (_columns(place, head.classes, dims, name) * _signs(place, name).unsqueeze(1)).T
    )


def _columns(place: Int[Tensor, "size"], period: int, dims: int, name: str) -> Float[Tensor, "size dims"]:
    """Columns, of length one, of ``dims`` rows of an orthonormal Fourier matrix of ``period`` columns, which is scaled.

    Where ``period`` is not larger than ``dims``, those of the identity.
    """
    if period <= dims:
        return torch.eye(period, device=place.device).index_select(0, place % period)
    # Frequency 0, and period / 2 where there is one, have a cosine but no sine.
    frequency = torch.arange(1, (period + 1) // 2, device=place.device)
    frequency = frequency.index_select(0, _noise(frequency, f"frequencies {name}").argsort(stable=True)[: dims // 2])
    angle = (place.unsqueeze(1) * frequency % period).float() * (2 * math.pi / period)
    return torch.cat([angle.cos(), angle.sin()], dim=1) * math.sqrt(2 / dims)


def _signs(place: Int[Tensor, "size"], name: str) -> Float[Tensor, "size"]:
    return (1 - 2 * (_noise(place, f"signs {name}") & 1)).float()


def _noise(numbers: Int[Tensor, "size"], name: str) -> Int[Tensor, "size"]:
    """Whole numbers without a pattern, the same on every device."""
    start = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
    return mixed(numbers * STEP + start)
