"""How far training is, as a sampler needs to know it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from lightning_select.errors import ArgumentError

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """How far training is. A Trainer keeps it up to date; in a loop of your own, assign ``sampler.progress``.

    A length may be a whole number that is a ``float``, such as ``trainer.estimated_stepping_batches``, and infinite or
    -1, as Trainers write it, where it is not known.

    Raises:
        ArgumentError: A value is no whole number, or below 0.

    Attributes:
        step: Optimiser steps so far; batches where a module optimises by hand and a Trainer counts by epochs alone.
        total_steps: The same of the whole training, where that is known.
        max_epochs: Epochs of the whole training, where that is known.
    """

    step: int = 0
    total_steps: int | None = None
    max_epochs: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", _whole("step", self.step))
        for name in ("total_steps", "max_epochs"):
            value = getattr(self, name)
            unknown = value is None or value == math.inf or value == -1
            object.__setattr__(self, name, None if unknown else _whole(name, value))


def _whole(name: str, value: Any) -> int:
    try:
        whole = isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer()
    except OverflowError:  # a whole number that no float holds
        whole = False
    if not whole:
        raise ArgumentError(f"Progress.{name} must be a whole number, got {str(value)[:40]}.")
    if value < 0:
        raise ArgumentError(f"Progress.{name} must not be below 0, got {value}.")
    return int(value)
