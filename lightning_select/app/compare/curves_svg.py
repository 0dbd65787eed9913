"""Learning curves as SVG, for a page that needs nothing from elsewhere and follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_select.app.compare.equal_cost import is_baseline
from lightning_select.app.compare.magnitude import is_finite
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run
from lightning_select.reports.scales import Scale, scale_of

__all__ = ["HEIGHT", "WIDTH", "Panel", "Trace", "legend_of", "panels_of"]

WIDTH, HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 42
_COLOURS = 10

_AXES = (
    ("step", "optimiser steps", False),
    ("samples", "rows processed, scoring included (log)", True),
    ("cost", "compute: row passes, backward as two (log)", True),
    ("seconds", "seconds, selection included", False),
)

Place = Callable[[float], float]
"""From a value to its position."""

Ticks = Sequence[tuple[float, str]]
"""Positions and what stands there."""


@dataclass(frozen=True)
class Trace:
    """One line: positions as an SVG ``points`` attribute, the class of its colour, is it a mean, is it dashed?"""

    points: str
    colour: str
    mean: bool
    dashed: bool


@dataclass(frozen=True)
class Panel:
    """A picture: its label, ticks as (position, text), lines, and the height of the target where there is one."""

    label: str
    across: Ticks
    up: Ticks
    traces: Sequence[Trace]
    target: float | None


def colour_of(method: str, methods: Sequence[str]) -> str:
    """Class of the colour of a method."""
    return f"c{methods.index(method) % _COLOURS}"


def panels_of(runs: Sequence[Run], target: float | None) -> list[Panel]:
    """One panel per axis; none where no run has a curve. Values that are not finite are left out."""
    target = None if target is None or not is_finite(target) else target
    curves: dict[str, list[tuple[Point, ...]]] = {}
    for run in runs:
        if not run.error and any(is_finite(point.value) for point in run.points):
            curves.setdefault(run.method, []).append(run.points)
    if not curves:
        return []
    every = [one for of_method in curves.values() for points in of_method for one in points if is_finite(one.value)]
    values = [point.value for point in every] + ([] if target is None else [target])
    up = scale_of(np.array(values), HEIGHT - _BOTTOM, _TOP)
    methods = list(dict.fromkeys(run.method for run in runs))
    panels = []
    for name, label, log in _AXES:
        ends = [float(getattr(point, name)) for point in every]
        across, ticks = (_log_axis if log else _axis)(ends)
        traces = [
            trace
            for method, of_method in curves.items()
            for trace in _traces(of_method, name, across, up, method, methods)
        ]
        traces.sort(key=lambda trace: trace.mean)
        goal = None if target is None else up(target)
        panels.append(Panel(label, ticks, [(up(value), text) for value, text in up.ticks()], traces, goal))
    return panels


def _traces(
    curves: Sequence[tuple[Point, ...]],
    name: str,
    across: Place,
    up: Place,
    method: str,
    methods: Sequence[str],
) -> list[Trace]:
    """The runs of a method, and their mean, evaluation by evaluation, as far as all runs go and have values."""
    lines = [[(float(getattr(point, name)), point.value) for point in points] for points in curves]
    common = [at for at in zip(*lines, strict=False) if all(is_finite(y) for _, y in at)]
    mean = [(sum(x for x, _ in at) / len(at), sum(y for _, y in at) / len(at)) for at in common]
    lines = [[(x, y) for x, y in line if is_finite(y)] for line in lines]
    colour, dashed = colour_of(method, methods), is_baseline(method)
    return [
        Trace(" ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line), colour, whole, dashed)
        for line, whole in [*((line, False) for line in lines if len(lines) > 1), (mean, True)]
        if line
    ]


def _axis(values: Sequence[float]) -> tuple[Place, Ticks]:
    """From values to positions, from zero on, and round numbers at theirs."""
    scale = scale_of(np.array([0.0, max(values) or 1.0]), _LEFT, WIDTH - _RIGHT)
    return scale, [(scale(value), text) for value, text in scale.ticks()]


def _log_axis(values: Sequence[float]) -> tuple[Place, Ticks]:
    """The same by their logarithms, from the least that is above zero."""
    low = min((value for value in values if value > 0), default=1.0)
    high, start = max(low, *values), math.log(low)
    scale = Scale(start, start + (math.log(high) - start or 1.0), _LEFT, WIDTH - _RIGHT)

    def place(value: float) -> float:
        return scale(math.log(max(value, low)))

    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [digit * 10.0**power for power in powers for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    inside = [value for value in inside if f"{value:e}".startswith("1")] if len(inside) > 5 else inside
    return place, [(place(value), _short(value)) for value in inside]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def legend_of(runs: Sequence[Run]) -> Mapping[str, tuple[str, bool]]:
    """Colour of each method that has a curve, and whether its line is dashed."""
    methods = list(dict.fromkeys(run.method for run in runs))
    drawn = dict.fromkeys(
        run.method for run in runs if not run.error and any(is_finite(point.value) for point in run.points)
    )
    return {method: (colour_of(method, methods), is_baseline(method)) for method in drawn}
