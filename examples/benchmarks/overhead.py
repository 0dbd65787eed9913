"""What our callbacks cost per step, against the same work written by hand in Lightning.

* ``BatchSelection(Loss(), TopK(), keep=.25)`` against a LightningModule whose own step scores the candidates
  (evaluation mode, no gradient), takes the quarter with the largest losses and trains on it. A bare torch loop that
  does the same stands beside it.
* ``LossReweighting(DynamicLoss())`` against the same module without a callback.
* Both callbacks while their schedule has them inactive, against the same module without a callback.

A step lasts from the end of one batch to the end of the next: the whole loop, with a batch from memory. Networks are
made so wide that the step compared with takes 5 and 50 ms. Arms take turns in one process; each round gives one ratio
of median steps, and the median over the rounds is what has a bar, with its 95 % interval. Rounds go on until that is
narrow. The step at which loggers are due (one in 50) costs a callback with metrics more than the others; a further
column, without a bar, has the mean over one such cadence.

    python examples/benchmarks/overhead.py --json examples/benchmarks/results/overhead.json
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from arms import GROUPS, LIMITS, ROWS, Arm, Turn
from common import Bar, be_quiet, finish, options, print_table

__all__ = ["Figure", "Plan", "Ratio", "bars", "calibrate", "compare", "main"]


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, seconds for one group and size, and the half-width of the interval to stop at."""

    targets: Sequence[float] = (5e-3, 50e-3)
    rounds: tuple[int, int] = (15, 400)
    seconds: float = 70.0
    precise: float = 0.004
    turn: float = 0.3
    warm_up: int = 6

    def steps(self, target: float) -> int:
        """Those of one turn that count."""
        return max(8, round(self.turn / target))


FAST = Plan(targets=(1e-3,), rounds=(2, 2), turn=0.02, warm_up=3)


@dataclass(frozen=True)
class Ratio:
    """Median over the rounds and its interval at about 95 %."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Ratio:
        """By the order of the values, no matter how they are distributed."""
        ordered, half = sorted(values), 0.98 * math.sqrt(len(values))
        low = max(0, math.floor(len(values) / 2 - half))
        return cls(statistics.median(values), ordered[low], ordered[len(values) - 1 - low])

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}..{self.high:.3f})"


@dataclass(frozen=True)
class Figure:
    """An arm against the first of its group: its median step, and its mean step over one cadence of the loggers."""

    arm: str
    against: str
    target_ms: float
    width: int
    milliseconds: float
    ratio: Ratio
    cadence_milliseconds: float
    cadence_ratio: Ratio
    rounds: int


def calibrate(arm: Arm, target: float, plan: Plan, tries: int = 12) -> int:
    """The width at which the median step takes ``target`` seconds: within 4 %, or as near as was found.

    Every width, the one that is returned included, is measured by the median of three turns.
    """
    width, found = 128, {}
    for _ in range(tries):
        found[width] = statistics.median(arm(width, plan.warm_up, plan.steps(target)).median for _ in range(3))
        if abs(found[width] / target - 1) < 0.04:
            return width
        # As if time grew with the square of the width: it grows a bit more slowly, so the target is not overshot.
        width = max(8, round(width * min(4.0, math.sqrt(target / found[width])) / 4) * 4)
    return min(found, key=lambda one: abs(found[one] / target - 1))


def compare(arms: Mapping[str, Arm], target: float, plan: Plan) -> list[Figure]:
    """Take turns until every ratio is known well enough, or time is up."""
    base = next(iter(arms))
    width, steps = calibrate(arms[base], target, plan), plan.steps(target)
    for arm in arms.values():
        arm(width, plan.warm_up, steps)
    taken: dict[str, list[Turn]] = {name: [] for name in arms}
    started = time.perf_counter()
    for number in range(1, plan.rounds[1] + 1):
        # There and back again, so that a machine that slows down harms everyone alike.
        for name in list(arms)[:: 1 if number % 2 else -1]:
            taken[name].append(arms[name](width, plan.warm_up, steps))
        ratios = {name: ratio(taken[name], taken[base], "median") for name in arms}
        precise = all(one.high - one.low < 2 * plan.precise for one in ratios.values())
        if number >= plan.rounds[0] and (precise or time.perf_counter() - started > plan.seconds):
            break
    return [
        Figure(
            arm=name,
            against=base,
            target_ms=target * 1e3,
            width=width,
            milliseconds=statistics.median(turn.median for turn in turns) * 1e3,
            ratio=ratios[name],
            cadence_milliseconds=statistics.median(turn.cadence for turn in turns) * 1e3,
            cadence_ratio=ratio(turns, taken[base], "cadence"),
            rounds=len(turns),
        )
        for name, turns in taken.items()
    ]


def ratio(turns: Sequence[Turn], base: Sequence[Turn], field: str) -> Ratio:
    """Round by round."""
    return Ratio.of([getattr(one, field) / getattr(other, field) for one, other in zip(turns, base, strict=True)])


def bars(figures: Sequence[Figure]) -> list[Bar]:
    """The ratios of median steps that have a limit."""
    return [
        Bar(f"{figure.arm} at {figure.target_ms:g} ms", figure.ratio.median, "at most", LIMITS[figure.arm])
        for figure in figures
        if figure.arm in LIMITS
    ]


def show(figures: Sequence[Figure]) -> None:
    """One group at one size."""
    base = figures[0]
    rows = [
        [
            figure.arm,
            f"{figure.milliseconds:.3f}",
            f"{figure.milliseconds - base.milliseconds:+.3f}",
            str(figure.ratio),
            f"{LIMITS[figure.arm]:.2f}" if figure.arm in LIMITS else "",
            f"{figure.cadence_milliseconds:.3f}",
            str(figure.cadence_ratio),
        ]
        for figure in figures
    ]
    header = ["", "median ms", "more", "ratio (95 %)", "bar", "mean ms over a cadence", "ratio (95 %)"]
    print_table(f"Steps of {base.target_ms:g} ms: width {base.width}, {base.rounds} rounds", header, rows)


def load() -> str:
    """A busy machine makes wide intervals."""
    return ", ".join(f"{one:.2f}" for one in os.getloadavg())


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__)
    be_quiet()
    torch.set_num_threads(1)
    plan, started = FAST if asked.fast else Plan(), time.perf_counter()
    print(f"{ROWS} rows, one thread; load of the machine {load()}")
    figures: list[Figure] = []
    for target in plan.targets:
        for arms in GROUPS:
            found = compare(arms, target, plan)
            show(found)
            figures += found
    print(f"\nload of the machine {load()}")
    record: list[dict[str, Any]] = [asdict(figure) for figure in figures]
    return finish("overhead", record, bars(figures), asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
