"""Rows that are likely mislabelled, with what speaks for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Suspects"]


@dataclass(frozen=True)
class Suspects:
    """A ranking of rows, most suspicious first.

    Attributes:
        ids: Rows of the dataset, shape (suspects,).
        scores: How suspicious each is, higher is more, in [0, 1]; shape (suspects,).
        evidence: What speaks for it, in words, one line per suspect of the first ones; may be shorter than ``ids``.
        likely: How many of the first suspects are called likely mislabelled; ``None`` where this run cannot tell.
        basis: What the ranking was made from, in words, and why the run cannot tell where it cannot.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    evidence: tuple[str, ...]
    likely: int | None
    basis: str
