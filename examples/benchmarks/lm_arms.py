"""The arms of `lm_reweighting`: settings chosen on seeds that do not count, then all arms on those that do.

Uniform chooses its rate and its length first, at most so many updates, for a rate that stays: the best point of all
curves. On text with copies it gets worse again once it has learnt them, and nobody would train on. Then it chooses once
more for a rate that falls to zero over a shorter length.
Every strategy of dynamic loss reweighting then chooses its temperature (``quadratic`` its range too) at the rate of
uniform: Adam divides by the size of gradients, and weights of mean one hardly change it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common import InMemory
from fits import Data, Job, Outcome, fit
from lm_model import CharacterModel
from lm_texts import COPIED, GARBLED, GARBLED_SHARE, REDUNDANT, Corpus, Kind

from lightning_select import Anneal, LossReweighting
from lightning_select.weightings.dynamic_loss import DynamicLoss

__all__ = ["FAST", "FULL", "SHORT", "UNIFORM", "WITHOUT", "Contest", "Plan", "final", "measure"]

UNIFORM, WITHOUT, SHORT = "uniform", "without those rows", "uniform, shorter"
SMOOTHED = 3
"""Marks that a point of a curve is the mean of: that one and those before it."""


def _annealed(strategy: str, temperature: float, quantiles: tuple[float, float] | None = None) -> DynamicLoss:
    """As in the paper, almost uniform at first; here over the first fifth of training."""
    return DynamicLoss(strategy, Anneal(begin=10.0, end=temperature, stop=0.2), quantiles)


STRATEGIES: Mapping[str, Mapping[str, DynamicLoss]] = {
    strategy: {
        **{f"r={r:g}": _annealed(strategy, r) for r in (0.4, 1.0)},
        **({"r=0.4, below the 0.9 quantile": _annealed(strategy, 0.4, (0.0, 0.9))} if strategy == "quadratic" else {}),
    }
    for strategy in ("linupper", "quadratic", "extremes", "upper")
}


@dataclass(frozen=True)
class Plan:
    """How much is run; ``updates`` are at most as many, and rows to train on are as many as one epoch of them takes.

    Seeds 0 to 4 are not used: how the length is chosen was settled on them. What `Share` has besides ``updates``, rows
    and seconds was added after the others were seen, so that is what the bars are about.
    """

    seeds: Sequence[int] = range(5, 10)
    tuning: Sequence[int] = (100, 101)
    rates: Sequence[float] = (3e-3, 6e-3, 12e-3, 24e-3)
    updates: int = 500
    every: int = 20
    shorter: float = 0.72
    batch: int = 32
    length: int = 65
    held: int = 512
    features: int = 64

    def marks(self, updates: int) -> tuple[int, ...]:
        """Updates after which the clean held-out text is looked at; the last one is the end."""
        return (*range(self.every, updates, self.every), updates)


FULL = Plan()
FAST = Plan(seeds=(0, 1), tuning=(100,), rates=(6e-3,), updates=12, every=2, batch=8, length=17, held=16, features=8)


def curve(outcome: Outcome) -> dict[int, float]:
    """Held-out loss by update, smoothed."""
    marks = sorted(outcome.figures)
    groups = {mark: marks[max(0, place + 1 - SMOOTHED) : place + 1] for place, mark in enumerate(marks)}
    return {mark: statistics.fmean(outcome.figures[one] for one in group) for mark, group in groups.items()}


def final(outcome: Outcome) -> float:
    """Last point of the smoothed curve."""
    return curve(outcome)[max(outcome.figures)]


def reached(outcome: Outcome, target: float) -> int | None:
    """First update at which the smoothed curve is as low; None if it never is."""
    return next((mark for mark, value in curve(outcome).items() if value <= target), None)


@dataclass(frozen=True)
class Share:
    """What an arm needed to the final loss of uniform, over what uniform itself needed to first get there.

    ``of_all`` is over all updates of uniform, which says little where uniform stood still for long; ``to_lowest`` is
    the same as ``updates`` for the lowest loss that uniform ever had.
    """

    updates: float
    of_all: float
    to_lowest: float
    rows: float
    seconds: float

    @classmethod
    def of(cls, arm: Outcome, uniform: Outcome) -> Share:
        """Infinite where the arm never got there."""
        lowest = min(curve(uniform).values())
        to_lowest = (reached(arm, lowest) or math.inf) / (reached(uniform, lowest) or math.nan)
        mark, own = reached(arm, final(uniform)), reached(uniform, final(uniform))
        if mark is None or own is None:
            return cls(math.inf, math.inf, to_lowest, math.inf, math.inf)
        rows, seconds = arm.rows[mark] / uniform.rows[own], arm.seconds[mark] / uniform.seconds[own]
        return cls(mark / own, mark / max(uniform.figures), to_lowest, rows, seconds)


@dataclass(frozen=True)
class Contest:
    """All that was run on one text; ``sweep`` has the validation loss of every setting tried."""

    kind: Kind
    updates: Mapping[str, int]
    rates: Mapping[str, float]
    chosen: Mapping[str, str]
    best: str
    sweep: Mapping[str, Mapping[str, float]]
    found: Mapping[str, list[Outcome]]

    def shares(self, arm: str) -> list[Share]:
        return [Share.of(one, other) for one, other in zip(self.found[arm], self.found[UNIFORM], strict=True)]

    def slower(self, arm: str) -> list[float]:
        """Seconds of a whole run over those of uniform, seed by seed."""
        pairs = zip(self.found[arm], self.found[UNIFORM], strict=True)
        return [one.seconds[max(one.seconds)] / two.seconds[max(two.seconds)] for one, two in pairs]

    def differences(self, arm: str, other: str = UNIFORM) -> list[float]:
        """Of final losses, seed by seed; below zero where ``arm`` is ahead."""
        return [final(one) - final(two) for one, two in zip(self.found[arm], self.found[other], strict=True)]


def measure(corpus: Corpus, plan: Plan, kind: Kind) -> Contest:
    """Settings first, on the tuning seeds; then everyone, one after the other within each seed."""
    bed = _Bed(corpus, plan, kind)
    curves = {rate: bed.tried(None, rate, plan.updates) for rate in plan.rates}
    rate, length = min(((one, mark) for one in curves for mark in curves[one]), key=lambda at: curves[at[0]][at[1]])
    updates = {UNIFORM: length, SHORT: max(2, round(length * plan.shorter))}
    short = {one: bed.tried(None, one, updates[SHORT], decay=True)[updates[SHORT]] for one in plan.rates}
    rates = {UNIFORM: rate, SHORT: min(short, key=short.__getitem__)}
    sweep = {
        UNIFORM: {f"{one:g}": min(values.values()) for one, values in curves.items()},
        SHORT: {f"{one:g}": value for one, value in short.items()},
    }
    for strategy, settings in STRATEGIES.items():
        sweep[strategy] = {name: bed.tried(one, rate, length)[length] for name, one in settings.items()}
    chosen = {strategy: min(sweep[strategy], key=sweep[strategy].__getitem__) for strategy in STRATEGIES}
    best = min(chosen, key=lambda strategy: sweep[strategy][chosen[strategy]])
    settings = {strategy: STRATEGIES[strategy][name] for strategy, name in chosen.items()}
    arms = (UNIFORM, *settings, *((WITHOUT,) if bed.marked else ()), SHORT, f"{best}, shorter")
    found: dict[str, list[Outcome]] = {arm: [] for arm in arms}
    for seed in plan.seeds:
        for arm, outcomes in found.items():
            like = SHORT if arm.endswith("shorter") else UNIFORM
            weighting = settings.get(arm.removesuffix(", shorter"))
            outcomes.append(
                bed.fit(weighting, seed, rates[like], updates[like], decay=like == SHORT, without=arm == WITHOUT)
            )
    return Contest(kind, updates, rates, chosen, best, sweep, found)


@dataclass(frozen=True)
class _Bed:
    corpus: Corpus
    plan: Plan
    kind: Kind

    @property
    def marked(self) -> float:
        """Share of the training rows that are copies or garbled."""
        return {REDUNDANT: COPIED, GARBLED: GARBLED_SHARE}.get(self.kind, 0.0)

    def tried(
        self, weighting: DynamicLoss | None, rate: float, updates: int, *, decay: bool = False
    ) -> dict[int, float]:
        """Mean of the curves of the tuning seeds."""
        tuning = self.plan.tuning
        curves = [curve(self.fit(weighting, seed, rate, updates, decay=decay, tuning=True)) for seed in tuning]
        return {mark: statistics.fmean(one[mark] for one in curves) for mark in curves[0]}

    def fit(
        self,
        weighting: DynamicLoss | None,
        seed: int,
        rate: float,
        updates: int,
        *,
        decay: bool = False,
        tuning: bool = False,
        without: bool = False,
    ) -> Outcome:
        """``without`` leaves out the rows that are copies or garbled, and makes batches smaller by as much."""
        plan = self.plan
        data = self.corpus.data(self.kind, seed, (plan.updates * plan.batch, plan.held), plan.length, tuning)
        batch = plan.batch
        if without:
            good = ~data.train.columns[2]
            data = Data(InMemory(*(column[good] for column in data.train.columns)), data.test)
            batch = round(batch * (1 - self.marked))
        job = Job(self.kind, self.kind == GARBLED, plan.marks(updates), len(data.train), batch, rate, decay, seed)
        callbacks = [] if weighting is None else [LossReweighting(weighting)]
        return fit(job, data, lambda: CharacterModel(self.corpus.vocabulary, plan.features, rate, decay), callbacks)
