"""The learning curves of a comparison, against steps, samples and time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from lightning_select.app.compare.magnitude import is_finite
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run

__all__ = ["plot_curves"]

_AXES = (
    ("step", "optimiser steps"),
    ("samples", "samples processed, scoring included"),
    ("seconds", "seconds, selection included"),
)


def plot_curves(runs: Sequence[Run], file: Path, *, metric: str, target: float | None) -> bool:
    """Write a PNG with three panels; thin lines are runs, thick ones their means.

    Returns:
        Was it written? Not where matplotlib is missing or no run finished.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    curves: dict[str, list[tuple[Point, ...]]] = {}
    for run in runs:
        if not run.error and any(is_finite(point.value) for point in run.points):
            curves.setdefault(run.method, []).append(run.points)
    if not curves:
        return False
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    panels = figure.subplots(1, len(_AXES), sharey=True)
    for panel, (name, label) in zip(panels, _AXES, strict=True):
        for number, (method, of_method) in enumerate(curves.items()):
            colour = f"C{number % 10}"
            for points in of_method:
                x = [getattr(point, name) for point in points]
                y = [point.value if is_finite(point.value) else math.nan for point in points]
                panel.plot(x, y, color=colour, linewidth=0.6, alpha=0.4)
            x, y = _mean(of_method, name), _mean(of_method, "value")
            panel.plot(x, y, color=colour, linewidth=2, label=method)
        if target is not None and is_finite(target):
            panel.axhline(target, color="grey", linestyle=":", linewidth=1)
        if name == "samples":  # methods that score or train references need many times those of uniform
            panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(metric)
    panels[0].legend(loc="lower right")
    figure.savefig(file, dpi=120)
    return True


def _mean(curves: Sequence[tuple[Point, ...]], name: str) -> list[float]:
    """Mean over runs, evaluation by evaluation, as far as all runs go and are finite."""
    common = [points for points in zip(*curves, strict=False) if all(is_finite(point.value) for point in points)]
    return [statistics.fmean(getattr(point, name) for point in points) for points in common]
