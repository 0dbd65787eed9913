"""A run cut into at most so many periods of equal length, however long it turns out to be."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MOST", "UNITS", "Periods"]

MOST = 32
"""Periods of a run, at most."""

UNITS = ("epoch", "step")
"""What a period counts."""


@dataclass
class Periods:
    """Counts epochs, or steps where there is one epoch, and doubles the length of a period when there are too many.

    Attributes:
        unit: ``epoch`` or ``step``.
        width: Epochs or steps of a period.
    """

    unit: str = "epoch"
    width: int = 1

    def at(self, moment: int) -> int:
        """Number of the period that holds this epoch, or step; `MOST` or more where `widen` is due."""
        return moment // self.width

    def widen(self) -> None:
        """Make two periods one."""
        self.width *= 2

    def names(self, count: int) -> tuple[str, ...]:
        """What the first ``count`` periods are called; epochs are counted from one, steps from zero as loggers do."""
        names = []
        for number in range(count):
            first = number * self.width + (self.unit == "epoch")
            last = first + self.width - 1
            names.append(f"{self.unit} {first}" if first == last else f"{self.unit}s {first}-{last}")
        return tuple(names)
