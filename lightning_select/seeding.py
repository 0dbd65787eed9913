"""Randomness as a function of a place in training, so that a resumed run draws what the first one drew."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from lightning_select.types import Int

__all__ = ["FIRST", "SECOND", "STEP", "generator_at", "mixed"]

STEP = -7046029254386353131  # 2^64 / golden ratio, as in splitmix64
FIRST = -4658895280553007687
SECOND = -7723592293110705685


def generator_at(device: torch.device, *place: int) -> torch.Generator:
    """A generator seeded by a place: (seed, step, rank), or (seed, epoch, draw)."""
    place = tuple(map(int, place))  # those of NumPy are written in another way
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def mixed(values: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Whole numbers in [0, 2^63) without a pattern, from any.

    The finaliser of splitmix64. Products wrap around; shifts carry the sign, so that the last of them clears it.
    """
    values = (values ^ (values >> 30)) * FIRST
    values = (values ^ (values >> 27)) * SECOND
    return values ^ (values >> 31)
