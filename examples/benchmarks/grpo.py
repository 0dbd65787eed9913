"""Training on rewards with difficulty filters and samplers, per update and per attempt, against GRPO that is tuned.

A tiny transformer works out sums. A short supervised start, in which many answers are wrong, leaves some kinds of sums
solved, some hopeless, and some that the policy knows better than it says (`grpo_arms`). All methods go through
``Trainer.fit`` with the module of this package. Plain GRPO is tuned first, on other seeds, and so is the learning rate
of every method; the table of both is printed.

Found, on 5 seeds: filters save updates and cost attempts. Balanced needs a quarter of plain's updates to get to plain's
best reward, and 1.8 times its attempts; of zero variance it is .29, and 1.2 times. Samplers that predict save little:
MoPPS needs .79 of plain's attempts and .78 of its time, where .60 was the aim; VADE and larger learning rates do not
get there. What limits it: 28 % of plain's prompts are informative, and MoPPS raises that to 49 % only, for a prompt
comes back every 44 updates, when what is known of it is old; and the last tenth of the way is one of noise, which small
steps average out and informative prompts do not. Tried on the tuning seeds and no better: decay .3, .8 and none, the
mean for a draw, a target of .35, p(1-p); with screening and without refill .85 of the attempts and .68 of the time.

The reward is the mean over 700 training prompts, smoothed over three looks. What a method needs to get to plain's best
is set against what plain itself needed, in updates, attempts, tokens and seconds (with all that the method does, and
without the looks). What the policy can do on held-out sums stands beside it.

    python examples/benchmarks/grpo.py --json examples/benchmarks/results/grpo.json
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from common import Bar, be_quiet, finish, options, print_table
from grpo_arms import ARMS, ATTEMPTS, PROMPTS, Curve, Settings, train

__all__ = ["Outcome", "Plan", "bars", "main", "smooth"]

AXES = ("updates", "attempts", "tokens", "seconds")
PLAIN, BALANCED = "plain", "balanced"
PREDICTING = ("vade", "mopps", "difficulty_full")


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    seeds: Sequence[int] = range(5)
    tuning: Sequence[int] = (100, 101)
    rates: Sequence[float] = (1.5e-4, 3e-4, 6e-4)
    warmups: Sequence[int] = (0, 20)
    settings: Settings = field(default_factory=Settings)


FAST = Plan((0, 1), (100,), (3e-4,), (0,), Settings(start=3, updates=4, rounds=4, every=2, most=8))


@dataclass(frozen=True)
class Outcome:
    """Of one run: the smoothed curve, what was informative, and what the filter cost.

    Attributes:
        points: Of each look: updates, attempts, tokens, seconds, reward and held-out share, the last two smoothed.
        informative: Share of the prompts attempted that had right and wrong attempts.
    """

    points: Sequence[Mapping[str, float]]
    informative: float

    @classmethod
    def of(cls, curve: Curve) -> Outcome:
        points = [asdict(point) for point in curve.points]
        for name in ("reward", "held_out"):
            for point, value in zip(points, smooth([point[name] for point in points]), strict=True):
                point[name] = value
        return cls(points, statistics.mean(curve.informative))

    @property
    def best(self) -> float:
        """The largest reward within the budget of plain, whoever it is."""
        return max(point["reward"] for point in self.points)

    def needs(self, reward: float, axis: str) -> float:
        """What it took to get to this reward; infinite where it never got there."""
        return next((point[axis] for point in self.points if point["reward"] >= reward), math.inf)

    def at(self, attempts: float, name: str) -> float:
        """The value at the last look within so many attempts."""
        return next(point[name] for point in reversed(self.points) if point["attempts"] <= attempts)


def smooth(values: Sequence[float]) -> list[float]:
    """Means of three: a look, and the two before it."""
    return [statistics.mean(values[max(0, place - 2) : place + 1]) for place in range(len(values))]


def ratios(outcomes: Sequence[Outcome], plain: Sequence[Outcome], axis: str) -> list[float]:
    """What a method needs to get to plain's best, over what plain needed; by seed."""
    return [one.needs(base.best, axis) / base.needs(base.best, axis) for one, base in zip(outcomes, plain, strict=True)]


def tune(plan: Plan) -> tuple[Settings, dict[str, float], list[dict[str, Any]]]:
    """Plain's best rate and warm-up, then the best rate of every other method at that warm-up.

    What is best is the mean reward over the run at equal attempts, which tells early and late progress alike.
    """
    table: list[dict[str, Any]] = []

    def score(name: str, settings: Settings) -> float:
        values = []
        for seed in plan.tuning:
            points = Outcome.of(train(ARMS[name], seed, settings)[0]).points
            budget = settings.rounds * PROMPTS * ATTEMPTS
            values.append(statistics.mean(point["reward"] for point in points if point["attempts"] <= budget))
        table.append({"method": name, "lr": settings.lr, "warmup": settings.warmup, "reward": statistics.mean(values)})
        return float(statistics.mean(values))

    tried = [replace(plan.settings, lr=lr, warmup=warmup) for lr in plan.rates for warmup in plan.warmups]
    scores = [score(PLAIN, one) for one in tried]
    best = tried[scores.index(max(scores))]
    rates = {PLAIN: best.lr}
    for name in ARMS:
        if name != PLAIN:
            found = [score(name, replace(best, lr=lr, updates=1)) for lr in plan.rates]
            rates[name] = plan.rates[found.index(max(found))]
    return best, rates, table


def bars(found: Mapping[str, Sequence[Outcome]]) -> list[Bar]:
    """Balanced by updates; the best method that predicts by attempts and by time."""
    median = {
        name: {axis: statistics.median(ratios(found[name], found[PLAIN], axis)) for axis in AXES} for name in found
    }
    ahead = min(PREDICTING, key=lambda name: max(median[name]["attempts"], median[name]["seconds"]))
    return [
        Bar("balanced: updates to plain's best, of plain's", median[BALANCED]["updates"], "at most", 0.5),
        Bar(f"{ahead}: attempts, of plain's", median[ahead]["attempts"], "at most", 0.6),
        Bar(f"{ahead}: seconds, of plain's", median[ahead]["seconds"], "at most", 0.6),
    ]


def show(found: Mapping[str, Sequence[Outcome]], rates: Mapping[str, float], plan: Plan) -> list[dict[str, Any]]:
    """Print both axes; the rows for the record."""
    budget = plan.settings.rounds * PROMPTS * ATTEMPTS
    records, rows = [], []
    for name, outcomes in found.items():
        needed = {axis: ratios(outcomes, found[PLAIN], axis) for axis in AXES}
        equal = [
            one.at(budget, "reward") - base.at(budget, "reward")
            for one, base in zip(outcomes, found[PLAIN], strict=True)
        ]
        held_out = statistics.mean(one.at(budget, "held_out") for one in outcomes)
        informative = statistics.mean(one.informative for one in outcomes)
        rows.append(
            [name, f"{rates[name]:g}", f"{informative:.2f}"]
            + [spread(needed[axis]) for axis in AXES]
            + [f"{statistics.mean(equal):+.3f} ({min(equal):+.3f}..{max(equal):+.3f})", f"{held_out:.3f}"]
        )
        records.append(
            {"method": name, "lr": rates[name], "informative": informative, "needed": needed, "equal": equal}
        )
    header = [
        "",
        "lr",
        "informative",
        *(f"{axis}, of plain's" for axis in AXES),
        "reward at equal attempts",
        "held out",
    ]
    base = found[PLAIN]
    own = ", ".join(f"{statistics.median(one.needs(one.best, axis) for one in base):.0f} {axis}" for axis in AXES)
    start = statistics.mean(one.points[0]["reward"] for one in base)
    print_table(
        f"To plain's best reward ({start:.3f} at the start, {statistics.mean(one.best for one in base):.3f} at best, "
        f"after {own}): median and range of {len(plan.seeds)} paired seeds",
        header,
        rows,
    )
    return records


def spread(values: Sequence[float]) -> str:
    """Median and range; a method that never gets there has no number."""
    return f"{told(statistics.median(values))} ({told(min(values))}..{told(max(values))})"


def rounded(point: Mapping[str, float]) -> dict[str, float]:
    """For the record."""
    return {name: round(value, 4) for name, value in point.items()}


def told(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__)
    be_quiet()
    torch.set_num_threads(1)
    plan, started = FAST if asked.fast else Plan(), time.perf_counter()
    best, rates, table = tune(plan)
    rows = [[one["method"], f"{one['lr']:g}", str(one["warmup"]), f"{one['reward']:.3f}"] for one in table]
    print_table("Tuned on seeds of their own: mean reward over the run", ["", "lr", "warm-up", "reward"], rows)
    found: dict[str, list[Outcome]] = {name: [] for name in ARMS}
    for seed in plan.seeds:
        # There and back again, so that a machine that slows down harms everyone alike.
        for name in list(ARMS)[:: 1 if seed % 2 else -1]:
            found[name].append(Outcome.of(train(ARMS[name], seed, replace(best, lr=rates[name]))[0]))
    records = show(found, rates, plan)
    curves = {name: [[rounded(point) for point in one.points] for one in outcomes] for name, outcomes in found.items()}
    figures = {"tuning": table, "methods": records, "curves": curves}
    return finish("grpo", figures, bars(found), asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
