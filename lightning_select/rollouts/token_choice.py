"""The next token of each row from its logits, and how likely it was.

A token is drawn by inverting the running sum of the probabilities at a number in [0, 1). The sums are of whole
numbers: they do not depend on the order of additions, a token of probability zero is never drawn, and the last one is
never stepped past. Log-probabilities are those of the distribution that is drawn from, ``softmax(logits /
temperature)``, in float32; at temperature 0 the likeliest token is taken (the first of equals), and its
log-probability is that at temperature 1.

Know before use: a row with a NaN or +inf among its logits gets the last token and a log-probability that is not finite;
-inf forbids a token. A token with a chance below 2^-52 is never drawn.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_select.errors import ArgumentError
from lightning_select.types import Float, Int
from lightning_select.visits import fitting

__all__ = ["check_temperature", "choose", "token_log_probs"]

SHARES = 2**52
PART = 2**24
"""Logits that are worked on at once, so that memory beside the logits does not grow with the rows."""

LEAST = 1e-30
"""Lower temperatures do the same, and logits divided by them might be infinite."""


def choose(
    logits: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, "rows"], temperature: float
) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"]]:
    """One token per row, and its log-probability; no gradient.

    Args:
        logits: Of the next token.
        uniforms: A number in [0, 1) per row, not looked at where the temperature is 0.
        temperature: Logits are divided by it; 0 takes the likeliest token.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.25, 0.5, 0.25]]).log().expand(3, 3)
        >>> choose(logits, torch.tensor([0.2, 0.25, 0.9], dtype=torch.float64), 1.0)[0].tolist()
        [0, 1, 2]
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        if temperature == 0:
            tokens = logits.argmax(1)
        else:
            parts = zip(_parts(logits, logits), _parts(uniforms, logits), strict=True)
            tokens = torch.cat([_drawn(part, points, temperature) for part, points in parts])
        return tokens, token_log_probs(logits, tokens, temperature)


def token_log_probs(
    logits: Float[Tensor, "*rows vocabulary"], tokens: Int[Tensor, "*rows"], temperature: float
) -> Float[Tensor, "*rows"]:
    """Log-probability of each token in float32, with a gradient.

    Many logits are worked on in parts, and in the backward pass once more, so that float32 copies and probabilities of
    only one part are there at a time.
    """
    with torch.autocast(logits.device.type, enabled=False):
        flat, wanted = logits.flatten(0, -2), tokens.flatten()
        pairs = list(zip(_parts(flat, flat), _parts(wanted, flat), strict=True))
        if len(pairs) == 1 or not (torch.is_grad_enabled() and logits.requires_grad):
            parts = [_gathered(*pair, temperature) for pair in pairs]
        else:
            again: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
            parts = [checkpoint(_gathered, *pair, temperature, **again) for pair in pairs]
        return torch.cat(parts).view(tokens.shape)


def check_temperature(owner: str, temperature: float) -> None:
    """Raise an ArgumentError unless logits can be divided by it, or it is 0."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ArgumentError(f"{owner}.temperature must be finite and 0 or more, got {temperature}.")


def _drawn(logits: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    chances = torch.softmax(_scaled(logits, temperature), 1, dtype=fitting(torch.float64, logits.device))
    ends = chances.mul_(SHARES).nan_to_num_(nan=0.0).long().cumsum_(1)
    points = (uniforms * ends[:, -1]).long().unsqueeze(1)
    # Only a row of NaN has an end of zero, and only there the place found is past the last token.
    return torch.searchsorted(ends, points, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)


def _gathered(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    scaled = _scaled(logits, temperature)
    picked: Tensor = scaled.gather(1, tokens.unsqueeze(1)).squeeze(1)
    return picked - scaled.logsumexp(1)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """In float32, and not copied where nothing changes."""
    return logits.float() if temperature in (0, 1) else logits.float() / max(temperature, LEAST)


def _parts(values: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    """The values of the rows of each part of the logits."""
    return torch.split(values, max(1, PART // max(1, logits.shape[1])))
