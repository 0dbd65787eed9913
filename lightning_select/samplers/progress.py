"""How far training is, as a sampler needs to know it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """How far training is. A Trainer keeps it up to date; in a loop of your own, assign ``sampler.progress``.

    Attributes:
        step: Optimiser steps so far.
        total_steps: Optimiser steps of the whole training, where that is known.
        max_epochs: Epochs of the whole training, where that is known.
    """

    step: int = 0
    total_steps: int | None = None
    max_epochs: int | None = None
