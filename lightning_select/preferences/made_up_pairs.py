"""Pairs whose right order is known: features of completions, some of the pairs swapped.

The true score is ``|w x| + v x`` for two random directions. A linear model learns half of it; the bend takes a network,
which can fit swapped pairs as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.seeding import generator_at

__all__ = ["made_up_pairs"]


def made_up_pairs(count: int, features: int, noise: int | float, seed: int, part: int = 0) -> dict[str, Tensor]:
    """``chosen``, ``rejected`` (count, features) and ``flipped`` (count,), true where the two were swapped.

    Args:
        count: Number of pairs.
        features: Features of a completion, independent and normal.
        noise: Share of the pairs that is swapped, exactly, up to rounding.
        seed: Seed of both directions, and of all draws.
        part: Parts of one seed have the same true score: one to train on, one to test on.

    Raises:
        ArgumentError: ``noise`` is not a share.

    Example:
        >>> pairs = made_up_pairs(10, 3, 0.4, seed=0)
        >>> tuple(pairs["chosen"].shape), int(pairs["flipped"].sum())
        ((10, 3), 4)
    """
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise <= 1:
        raise ArgumentError(f"made_up_pairs.noise must be in [0, 1], got {noise!r}.")
    cpu = torch.device("cpu")
    truth, draw = generator_at(cpu, seed, -1), generator_at(cpu, seed, part)
    bent, straight = torch.randn(2, features, generator=truth) / features**0.5
    sides = torch.randn(2, count, features, generator=draw)
    scores = (sides @ bent).abs() + sides @ straight
    chosen = torch.where((scores[0] > scores[1])[:, None], sides[0], sides[1])
    rejected = sides[0] + sides[1] - chosen
    flipped = torch.zeros(count, dtype=torch.bool)
    flipped[torch.randperm(count, generator=draw)[: round(noise * count)]] = True
    swap = flipped[:, None]
    return {
        "chosen": torch.where(swap, rejected, chosen),
        "rejected": torch.where(swap, chosen, rejected),
        "flipped": flipped,
    }
