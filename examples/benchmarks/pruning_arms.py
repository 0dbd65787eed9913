"""The arms that `info_batch` compares, their rates, and paired differences over the seeds.

All arms choose their rate alike, from the same several, on validation rows and on seeds that are not reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pruning import Images, Outcome, fit

__all__ = ["EQUAL", "FAST", "FULL", "PAIRS", "PAPER", "PRUNED", "WHOLE", "Paired", "Plan", "Regime", "measure"]

WHOLE, PRUNED, EQUAL = "uniform, as many epochs", "InfoBatch", "uniform, as many samples"
PAPER = "InfoBatch, rate of uniform"
PAIRS = ((PRUNED, WHOLE), (PAPER, WHOLE), (PRUNED, EQUAL), (EQUAL, WHOLE))
QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantile of Student's t, by the degrees of freedom."""


@dataclass(frozen=True)
class Plan:
    """How much is run; the bars are those of the last number of epochs.

    With 60 epochs 51 prune (the first knows no losses, the last 8 are full), so that 30 % are skipped where 71 % of the
    rows are below the mean loss. Seeds 0 to 4 are not used: on them, with the rate 0.2 of uniform and no bar on the
    width, InfoBatch collapsed on some and the bars held all the same. Arms, bars and tuning seeds were changed then.
    """

    seeds: Sequence[int] = range(5, 10)
    tuning: Sequence[int] = range(100, 106)
    epochs: Sequence[int] = (15, 60)
    rates: Sequence[float] = (0.025, 0.05, 0.1, 0.2, 0.4)


FULL = Plan()
FAST = Plan(seeds=(0, 1), tuning=(100,), epochs=(2, 4), rates=(0.1,))


@dataclass(frozen=True)
class Paired:
    """Mean of the differences seed by seed, and its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Paired:
        mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
        half = QUANTILES[len(values) - 1] * error
        return cls(mean, mean - half, mean + half)

    def text(self, scale: float, digits: int) -> str:
        mean, low, high = (f"{scale * value:+.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} ({low}..{high})"


@dataclass(frozen=True)
class Regime:
    """All that was run with one number of epochs; ``sweep`` has the validation accuracy of each rate."""

    epochs: int
    rates: Mapping[str, float]
    sweep: Mapping[str, Mapping[float, float]]
    found: Mapping[str, Sequence[Outcome]]

    @property
    def skipped(self) -> float:
        """Share of the samples of all epochs that InfoBatch left out."""
        return 1 - self.mean(PRUNED, "samples") / self.mean(WHOLE, "samples")

    def mean(self, arm: str, name: str) -> float:
        return statistics.fmean(getattr(one, name) for one in self.found[arm])

    def paired(self, one: str, other: str, name: str) -> Paired:
        pairs = zip(self.found[one], self.found[other], strict=True)
        return Paired.of([getattr(a, name) - getattr(b, name) for a, b in pairs])

    def ahead(self) -> str:
        """Who does better with as many samples, as far as the intervals tell."""
        words = []
        for name, sign in (("accuracy", 1), ("loss", -1)):
            found = self.paired(PRUNED, EQUAL, name)
            ahead = "InfoBatch" if sign * found.mean > 0 else "uniform"
            clear = found.low > 0 or found.high < 0
            words.append(f"{ahead} is ahead in {name}" if clear else f"neither is clearly ahead in {name}")
        return ", ".join(words)


def measure(images: Images, plan: Plan, epochs: int) -> Regime:
    """Choose the rates on the tuning seeds, then run all arms on the seeds that count."""
    rates: dict[str, float] = {}
    sweep: dict[str, dict[float, float]] = {}
    costs: dict[int, int | None] = dict.fromkeys(plan.tuning)
    for arm in (WHOLE, PRUNED, EQUAL):  # in this order: the last one trains on as many samples as the one before
        tried = {
            rate: [fit(images, seed, rate, arm == PRUNED, epochs, costs[seed]) for seed in plan.tuning]
            for rate in plan.rates
        }
        rates[arm], sweep[arm] = _best(tried)
        if arm == PRUNED:
            costs = {seed: one.samples for seed, one in zip(plan.tuning, tried[rates[arm]], strict=True)}
    rates[PAPER] = rates[WHOLE]
    found: dict[str, list[Outcome]] = {arm: [] for arm in (WHOLE, PRUNED, PAPER, EQUAL)}
    for seed in plan.seeds:
        for arm in found:
            budget = found[PRUNED][-1].samples if arm == EQUAL else None
            found[arm].append(fit(images, seed, rates[arm], arm in (PRUNED, PAPER), epochs, budget))
    return Regime(epochs, rates, sweep, found)


def _best(tried: Mapping[float, Sequence[Outcome]]) -> tuple[float, dict[float, float]]:
    """The rate with the best accuracy on validation rows; of equally good ones that with the smaller loss."""
    means: dict[float, tuple[float, float]] = {}
    for rate, outcomes in tried.items():
        accuracy, loss = (statistics.fmean(column) for column in zip(*(o.validation for o in outcomes), strict=True))
        means[rate] = round(accuracy, 9), -loss
    return max(means, key=means.__getitem__), {rate: accuracy for rate, (accuracy, _) in means.items()}
