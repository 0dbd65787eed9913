"""Randomness as a function of a place in training, so that a resumed run draws what the first one drew."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator_at"]


def generator_at(device: torch.device, *place: int) -> torch.Generator:
    """A generator seeded by a place: (seed, step, rank), or (seed, epoch, draw)."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
