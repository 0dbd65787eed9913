"""From runs to the numbers of the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lightning_select.app.compare.magnitude import is_finite
from lightning_select.app.compare.methods import UNIFORM
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run

__all__ = ["Outcome", "Summary", "alike", "outcomes_of", "reached", "summarise", "target_of"]

_SMOOTHED = 3
"""Evaluations whose mean must reach the target, so that one lucky evaluation does not."""


@dataclass(frozen=True)
class Outcome:
    """What counts of one run. What it took to reach the target is infinite where it never was.

    Attributes:
        final: The final metric.
        steps: Optimiser steps to the target.
        samples: Rows through the model to the target.
        cost: Forward passes of a row to the target, a backward pass counted as two.
        seconds: Time to the target, evaluations not counted.
        early: Was the target reached by the first evaluation, so that it may have been much earlier?
        spent: Cost of the whole run.
    """

    final: float
    steps: float
    samples: float
    cost: float
    seconds: float
    early: bool = False
    spent: float = 0.0


@dataclass(frozen=True)
class Summary:
    """One line of the table; ``None`` where there is nothing to say.

    Attributes:
        method: Name of the method.
        runs: Runs that finished.
        failed: Errors of those that did not.
        final_mean: Mean of the final metric over seeds, of the runs where it is a finite number.
        final_sd: Its standard deviation.
        steps_to_target: Median over seeds, infinite where half of the runs or more never reached the target.
        samples_to_target: The same of rows through the model.
        reached: Runs that reached the target.
        rows_per_step: Mean number of rows that a step learnt from.
        flagged_share: Mean share of rows with wrong labels in what was trained on.
        cost: Mean number of forward passes of a row, a backward pass counted as two.
        relative_cost: The same as a multiple of uniform's on the same seeds.
        seconds: Mean time of training.
        not_finite: Runs that finished, and whose final metric is no finite number (see `magnitude`).
    """

    method: str
    runs: int
    failed: tuple[str, ...]
    final_mean: float | None
    final_sd: float | None
    steps_to_target: float | None
    samples_to_target: float | None
    reached: int
    rows_per_step: float | None
    flagged_share: float | None
    cost: float | None
    relative_cost: float | None
    seconds: float | None
    not_finite: int = 0


def alike(runs: Sequence[Run], metric: str) -> tuple[list[Run], str]:
    """The runs with one final metric, and its name.

    Where only some of them were tested (a method may bring a module of its own), all end with the last value of the
    curve, ``metric``, because a test value cannot be compared with it.
    """
    names = {run.final_metric for run in runs if not run.error}
    if len(names) == 1:
        return list(runs), names.pop()
    return [run if run.error else replace(run, final=_last(run), final_metric=metric) for run in runs], metric


def _last(run: Run) -> float | None:
    return run.points[-1].value if run.points else None


def target_of(runs: Iterable[Run], fixed: float | None, *, higher: bool) -> float | None:
    """The value to reach: the fixed one, or 5 % short of where the curve of uniform ends on average, if in a number."""
    ends = [run.points[-1].value for run in runs if run.method == UNIFORM and not run.error and run.points]
    ends = [end for end in ends if is_finite(end)]
    if fixed is not None or not ends:
        return fixed
    end = statistics.fmean(ends)
    return end - 0.05 * abs(end) if higher else end + 0.05 * abs(end)


def reached(points: Sequence[Point], target: float, *, higher: bool) -> tuple[float, float, float, float] | None:
    """Steps, samples, cost and seconds where the curve crosses the target.

    The curve is the mean over an evaluation and the two before it, and straight between evaluations: otherwise methods
    that cross within one interval between evaluations would look alike on every seed, and their ratio certain. Where
    one of the three is no finite number there is no mean, and nothing is reached.
    """
    before: tuple[float, Point] | None = None
    for position, point in enumerate(points):
        near = [one.value for one in points[max(0, position + 1 - _SMOOTHED) : position + 1]]
        if not all(map(is_finite, near)):
            before = None
            continue
        mean = statistics.fmean(near)
        if (mean >= target) if higher else (mean <= target):
            share = 1.0 if before is None else (target - before[0]) / (mean - before[0])
            last = point if before is None else before[1]
            ends = zip(_axes(last), _axes(point), strict=True)
            steps, samples, cost, seconds = (low + share * (high - low) for low, high in ends)
            return steps, samples, cost, seconds
        before = (mean, point)
    return None


def _axes(point: Point) -> tuple[float, float, float, float]:
    return float(point.step), float(point.samples), float(point.cost), point.seconds


def outcomes_of(runs: Iterable[Run], target: float | None, *, higher: bool) -> dict[str, dict[int, Outcome]]:
    """Outcomes of all runs that finished, by method and seed, in order of appearance."""
    outcomes: dict[str, dict[int, Outcome]] = {}
    for run in runs:
        of_method = outcomes.setdefault(run.method, {})
        if run.error or run.final is None:
            continue
        took = None if target is None else reached(run.points, target, higher=higher)
        early = took is not None and took[0] == run.points[0].step
        of_method[run.seed] = Outcome(run.final, *(took or (math.inf,) * 4), early=early, spent=run.cost)
    return outcomes


def summarise(runs: Sequence[Run], target: float | None, *, higher: bool) -> list[Summary]:
    """One line per method, in order of appearance."""
    outcomes = outcomes_of(runs, target, higher=higher)
    uniform = {run.seed: run.cost for run in runs if run.method == UNIFORM and not run.error and run.cost}
    lines = []
    for method, of_method in outcomes.items():
        done = [run for run in runs if run.method == method and run.seed in of_method]
        finals = [outcome.final for outcome in of_method.values() if is_finite(outcome.final)]
        flagged = [run.flagged_share for run in done if run.flagged_share is not None]
        lines.append(
            Summary(
                method=method,
                runs=len(done),
                failed=tuple(run.error for run in runs if run.method == method and run.error),
                final_mean=_mean(finals),
                final_sd=statistics.stdev(finals) if len(finals) > 1 else None,
                steps_to_target=_median([one.steps for one in of_method.values()], target),
                samples_to_target=_median([one.samples for one in of_method.values()], target),
                reached=sum(math.isfinite(one.steps) for one in of_method.values()),
                rows_per_step=_mean([run.rows_per_step for run in done]),
                flagged_share=_mean(flagged),
                cost=_mean([run.cost for run in done]),
                relative_cost=_mean([run.cost / uniform[run.seed] for run in done if run.seed in uniform]),
                seconds=_mean([run.seconds for run in done]),
                not_finite=len(of_method) - len(finals),
            )
        )
    return lines


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _median(values: Sequence[float], target: float | None) -> float | None:
    return statistics.median(values) if values and target is not None else None
