"""Charts of what goes on along an axis: curves with bands, and how often a count occurs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_select.reports.drawing import Drawing, Point
from lightning_select.reports.figures import DataTable, Figure
from lightning_select.reports.scales import HEIGHT, WIDTH, Frame, Scale, axes, scale_of
from lightning_select.reports.wording import count, number, rows_of, share

__all__ = ["Bin", "band_chart", "histogram", "line_chart"]

Numbers = NDArray[np.floating]
TABLE_ROWS = 12
"""A table of a curve holds so many of its points, evenly spaced."""


@dataclass(frozen=True)
class Bin:
    """How many rows have a count between two bounds, both included."""

    low: int
    high: int
    rows: int

    @property
    def name(self) -> str:
        """The counts in words."""
        return count(self.low) if self.low == self.high else f"{count(self.low)} to {count(self.high)}"


def band_chart(title: str, steps: NDArray[np.int64], quantiles: Numbers, unit: str) -> Figure:
    """Median, middle half and the range without the outer twentieths, over the steps of a run.

    Args:
        title: What it shows.
        steps: Optimiser steps, shape (snapshots,).
        quantiles: The quantiles .05, .25, .5, .75 and .95 at each, shape (snapshots, 5). Gaps are left where a value is
            not finite.
        unit: What the values are.
    """
    text = _from_to("The median", steps, quantiles[:, 2])
    frame, drawing = Frame(), Drawing(WIDTH, HEIGHT, f"{title}. {text}")
    x, y = _scales(frame, steps, quantiles)
    axes(drawing, frame, x, y, "optimiser step", unit)
    for low, high, style in ((0, 4, "band wide"), (1, 3, "band"), (2, 2, "line")):
        for run in _runs(np.isfinite(quantiles[:, low]) & np.isfinite(quantiles[:, high])):
            upper = [(x(steps[i]), y(quantiles[i, high])) for i in run]
            lower = [(x(steps[i]), y(quantiles[i, low])) for i in run]
            _curve(drawing, upper, style) if low == high else _area(drawing, upper + lower[::-1], style)
    head = ("step", "5 %", "25 %", "median", "75 %", "95 %")
    rows = tuple((count(steps[i]), *(number(value) for value in quantiles[i])) for i in _some(len(steps)))
    keys = (("line", "median"), ("band", "middle half of the rows"), ("band wide", "all but the outer twentieths"))
    return Figure(title, text, drawing.html(), DataTable(title, head, rows), keys)


def line_chart(title: str, steps: NDArray[np.int64], shares: Numbers, unit: str) -> Figure:
    """A share over the steps of a run, shapes (snapshots,); gaps are left where it is not finite."""
    text = _from_to("It", steps, shares, share)
    frame, drawing = Frame(), Drawing(WIDTH, HEIGHT, f"{title}. {text}")
    x, y = _scales(frame, steps, np.append(shares, [0.0, 1.0]))
    axes(drawing, frame, x, y, "optimiser step", unit)
    for run in _runs(np.isfinite(shares)):
        _curve(drawing, [(x(steps[i]), y(shares[i])) for i in run], "line")
    rows = tuple((count(steps[i]), share(shares[i])) for i in _some(len(steps)))
    return Figure(title, text, drawing.html(), DataTable(title, ("step", unit), rows))


def histogram(title: str, text: str, bins: Sequence[Bin], unit: str) -> Figure:
    """How many rows have each count; the bar of those with none stands out.

    Args:
        title: What it shows.
        text: How to read it.
        bins: The bars from left to right.
        unit: What was counted.
    """
    total = sum(one.rows for one in bins)
    tallest = max(bins, key=lambda one: one.rows)
    label = f"{title}. {rows_of(total)} in all; the tallest bar is {tallest.name}, with {rows_of(tallest.rows)}."
    frame, drawing = Frame(), Drawing(WIDTH, HEIGHT, label)
    y = scale_of(np.array([0.0, tallest.rows]), frame.bottom, frame.top, whole=True)
    axes(drawing, frame, None, y, unit, "rows")
    wide = (frame.right - frame.left) / len(bins)
    every = -(-len(bins) * max(len(one.name) for one in bins) * 7 // int(frame.right - frame.left))
    for place, one in enumerate(bins):
        left, top = frame.left + place * wide, y(one.rows)
        style = "bar none" if one.high == 0 else "bar"
        tip = f"{one.name} {unit}: {rows_of(one.rows)}"
        drawing.box((left + 0.08 * wide, top), 0.84 * wide, frame.bottom - top, style, tip=tip)
        if place % every == 0:
            drawing.words((left + wide / 2, frame.bottom + 15), one.name, "middle")
    rows = tuple((one.name, count(one.rows), share(one.rows / max(total, 1))) for one in bins)
    return Figure(title, text, drawing.html(), DataTable(title, (unit, "rows", "share of the rows"), rows))


def _scales(frame: Frame, steps: NDArray[np.int64], values: Numbers) -> tuple[Scale, Scale]:
    x = scale_of(steps.astype(np.float64), frame.left, frame.right, whole=True)
    return x, scale_of(values, frame.bottom, frame.top)


def _runs(known: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """Positions of what is known, in stretches without a gap."""
    places = np.flatnonzero(known)
    for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
        if run.size:
            yield run


def _curve(drawing: Drawing, points: Sequence[Point], style: str) -> None:
    if len(points) == 1:
        drawing.dot(points[0], f"{style} dot")
    else:
        drawing.path(points, style)


def _area(drawing: Drawing, points: Sequence[Point], style: str) -> None:
    """Between two curves; of a single point, the distance between them."""
    drawing.path(points, f"{style} alone" if len(points) == 2 else style, closed=True)


def _some(total: int) -> list[int]:
    """At most `TABLE_ROWS` positions, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, max(total - 1, 0), min(total, TABLE_ROWS))})


def _from_to(what: str, steps: NDArray[np.int64], values: Numbers, words: Callable[[float], str] = number) -> str:
    """Where a curve begins and where it ends."""
    known = np.flatnonzero(np.isfinite(values))
    if not known.size:
        return f"{what} is unknown."
    first, last = int(known[0]), int(known[-1])
    begin = f"{what} is {words(values[first])} at step {count(steps[first])}"
    return f"{begin}." if first == last else f"{begin} and {words(values[last])} at step {count(steps[last])}."
