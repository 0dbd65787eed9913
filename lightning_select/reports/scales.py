"""From values to places in a drawing, and the axes that say which is which."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_select.reports.drawing import Drawing

__all__ = ["HEIGHT", "WIDTH", "Frame", "Scale", "axes", "scale_of"]

WIDTH, HEIGHT = 360.0, 210.0
"""Units of a chart. They are about the pixels of a telephone, so that text is legible where the page is narrowest."""


@dataclass(frozen=True)
class Scale:
    """A linear axis.

    Attributes:
        low: Value at its start.
        high: Value at its end.
        start: Place of its start in the drawing.
        end: Place of its end.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Round values along the axis with their names, at most ``most + 1`` of them."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((size * power for size in (1, 2, 2.5, 5) if size * power >= rough), 10 * power)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [step * position for position in range(first, last + 1)]
        largest = max(abs(self.low), abs(self.high))
        if largest < 1e-3 or largest >= 1e7 or step < 1e-7:
            # Four figures, or as many as tell neighbours apart; those of a float always do.
            named = ([f"{value:.{figures}g}" for value in values] for figures in range(4, 18))
            return list(zip(values, next(names for names in named if len({*names}) == len({*values})), strict=True))
        # As many decimals as tell neighbours apart.
        digits = next(many for many in range(10) if math.isclose(step, round(step, many), rel_tol=1e-6))
        return [(value, f"{value:,.{digits}f}") for value in values]


def scale_of(values: NDArray[np.floating], start: float, end: float, *, whole: bool = False) -> Scale:
    """A scale that holds all finite values.

    Args:
        values: What it must hold; nothing finite gives a scale from 0 to 1.
        start: Place of its start.
        end: Place of its end.
        whole: Values are whole numbers, so that there is nothing between two of them.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return Scale(0.0, 1.0, start, end)
    low, high = float(finite.min()), float(finite.max())
    # Too close to tell apart, for the eye and for float arithmetic alike.
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = 1.0 if whole or low == 0 else abs(low) / 2
        low, high = low - room, high + room
    return Scale(low, high, start, end)


@dataclass(frozen=True)
class Frame:
    """Where the plot lies in a chart of `WIDTH` times `HEIGHT`."""

    left: float = 46.0
    right: float = WIDTH - 12
    top: float = 24.0
    bottom: float = HEIGHT - 36


def axes(drawing: Drawing, frame: Frame, x: Scale | None, y: Scale, x_label: str, y_label: str) -> None:
    """Grid lines, numbers and the names of both axes; the numbers of ``x`` are left out where it is ``None``."""
    for value, name in y.ticks(4):
        drawing.path([(frame.left, y(value)), (frame.right, y(value))], "grid")
        drawing.words((frame.left - 5, y(value) + 4), name, "end")
    if x is not None:
        for value, name in x.ticks(4):
            _below(drawing, frame, x(value), name)
    drawing.path([(frame.left, frame.bottom), (frame.right, frame.bottom)], "axis")
    drawing.words((frame.left - 40, frame.top - 13), y_label, "name")
    drawing.words((frame.right, HEIGHT - 5), x_label, "name end")


def _below(drawing: Drawing, frame: Frame, place: float, name: str) -> None:
    """A number under the axis; at its right end it ends where the axis does."""
    late = place > frame.right - 12
    drawing.words((min(place, frame.right), frame.bottom + 15), name, "end" if late else "middle")
