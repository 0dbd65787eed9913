"""Rates of the arms of `uds_sft`, chosen on seeds that do not count, then all arms on those that do, with differences.

Every arm sees one epoch of candidate batches. The random subset takes as many rows in as many steps as a method keeps;
two more runs of it are longer: as many rows as UDS had through its model, scored or trained on, and as many seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pruning_arms import Paired
from sft_arms import (
    ALL,
    CANDIDATES,
    DIVERSE,
    GREEDY,
    MAX_LOSS,
    RANDOM,
    RHO,
    ROOT,
    ROWS,
    SECONDS,
    SELECTIONS,
    UDS,
    Bed,
    Outcome,
    Scale,
    fit,
)

__all__ = ["FAST", "FULL", "Contest", "Plan", "measure"]

Tried = Mapping[float, Sequence[Outcome]]
"""What came out, by rate."""
TUNED = (RANDOM, MAX_LOSS, RHO, UDS, ROWS)
"""In this order: the last one trains on as many rows as the one before had through its model."""
SAME = {GREEDY: UDS, DIVERSE: UDS, ROOT: UDS, SECONDS: ROWS}
"""Whose rate an arm has that chooses none: an arm much like it."""


@dataclass(frozen=True)
class Plan:
    """How much is run. The random subset and all data choose their rates on all tuning seeds, the others on the first.

    The design of this comparison was settled on the tuning seeds as well.
    """

    seeds: Sequence[int] = range(5)
    tuning: Sequence[int] = (100, 101)
    kept: Sequence[int] = (8, 4)
    rates: Sequence[float] = (2e-3, 4e-3, 8e-3)
    scale: Scale = field(default_factory=Scale)

    @property
    def steps(self) -> int:
        """One epoch."""
        return self.scale.rows[0] // CANDIDATES


FULL = Plan()
FAST = Plan(
    seeds=(0, 1),
    tuning=(100,),
    rates=(3e-3,),
    scale=Scale(rows=(64, 8, 16), length=32, vocabulary=300, general=(3e-3, 2)),
)


@dataclass(frozen=True)
class Contest:
    """All that was run with so many rows kept; ``sweep`` has the validation loss of each rate."""

    kept: int
    rates: Mapping[str, float]
    steps: Mapping[str, int]
    sweep: Mapping[str, Mapping[float, float]]
    found: Mapping[str, list[Outcome]]

    def mean(self, arm: str, name: str) -> float:
        return statistics.fmean(getattr(one, name) for one in self.found[arm])

    def differences(self, one: str, other: str) -> list[float]:
        """In held-out loss, seed by seed; below zero where ``one`` is ahead."""
        return [a.test - b.test for a, b in zip(self.found[one], self.found[other], strict=True)]

    def paired(self, one: str, other: str) -> Paired:
        return Paired.of(self.differences(one, other))

    def ahead(self, one: str, other: str) -> str:
        """Who does better, as far as the interval tells."""
        found = self.paired(one, other)
        if found.low <= 0 <= found.high:
            return f"neither {one} nor {other} is clearly ahead"
        return f"{one if found.mean < 0 else other} is ahead of {other if found.mean < 0 else one}"


def measure(beds: Mapping[int, Bed], plan: Plan) -> list[Contest]:
    """Rates and lengths first, on the tuning seeds; then everyone, one after the other within each seed."""
    everything = {
        rate: [fit(beds[seed], ALL, CANDIDATES, rate, plan.steps) for seed in plan.tuning] for rate in plan.rates
    }
    contests = [_tuned(beds, plan, kept, everything) for kept in plan.kept]
    for seed in plan.seeds:
        whole = fit(beds[seed], ALL, CANDIDATES, contests[0].rates[ALL], plan.steps)
        for contest in contests:
            for arm, outcomes in contest.found.items():
                rate, steps = contest.rates[arm], contest.steps[arm]
                outcomes.append(whole if arm == ALL else fit(beds[seed], arm, contest.kept, rate, steps))
    return contests


def _tuned(beds: Mapping[int, Bed], plan: Plan, kept: int, everything: Tried) -> Contest:
    """A contest with nothing found yet."""
    steps = dict.fromkeys((ALL, RANDOM, *SELECTIONS), plan.steps)
    tried: dict[str, Tried] = {ALL: everything}
    rates = {ALL: _best(everything)}
    for arm in TUNED:
        seeds = plan.tuning if arm == RANDOM else plan.tuning[:1]
        if arm == ROWS:
            steps[ROWS] = round(tried[UDS][rates[UDS]][0].rows / kept)
        tried[arm] = {rate: [fit(beds[seed], arm, kept, rate, steps[arm]) for seed in seeds] for rate in plan.rates}
        rates[arm] = _best(tried[arm])
    pace = [statistics.median(one[0].seconds for one in tried[arm].values()) for arm in (UDS, RANDOM)]
    steps[SECONDS] = max(1, round(plan.steps * pace[0] / pace[1]))
    rates |= {arm: rates[other] for arm, other in SAME.items()}
    sweep = {arm: {rate: _validation(several) for rate, several in one.items()} for arm, one in tried.items()}
    return Contest(kept, rates, steps, sweep, {arm: [] for arm in (ALL, RANDOM, *SELECTIONS, ROWS, SECONDS)})


def _best(tried: Tried) -> float:
    return min(tried, key=lambda rate: _validation(tried[rate]))


def _validation(outcomes: Sequence[Outcome]) -> float:
    return statistics.fmean(one.validation for one in outcomes)
