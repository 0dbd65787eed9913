"""How scores and losses of the batches moved while a run went on, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["QUANTILES", "Timeline"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Timeline:
    """Snapshots of single batches, evenly spaced, at most some hundred of a run of any length.

    Attributes:
        step: Optimiser steps before each snapshot, shape (snapshots,).
        epoch: Epoch of each.
        score: `QUANTILES` of the scores of the rows that were offered, shape (snapshots, 5); NaN where none were made.
        loss: `QUANTILES` of the losses of the rows that were trained on, shape (snapshots, 5); NaN where not read.
        kept: Share of the offered rows that were trained on.
    """

    step: NDArray[np.int64]
    epoch: NDArray[np.int64]
    score: NDArray[np.float32]
    loss: NDArray[np.float32]
    kept: NDArray[np.float32]

    @staticmethod
    def empty() -> Timeline:
        """A run without snapshots."""
        none, five = np.zeros(0), np.zeros((0, len(QUANTILES)), np.float32)
        return Timeline(none.astype(np.int64), none.astype(np.int64), five, five, none.astype(np.float32))
