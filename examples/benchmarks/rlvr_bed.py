"""Which prompts are worth an attempt? Filters after the attempt and samplers before it, per update and per generation.

A policy learns from rewards of its own responses (`rlvr`). A prompt of which all responses are right, or none, teaches
nothing. Filters try prompts until enough of them teach something, and pay for those that they throw away; samplers
guess from earlier attempts, and pay for nothing else. Everything runs through ``Trainer.fit``; the samplers are in the
``DataLoader``, the filters in the training step.

    python examples/benchmarks/rlvr_bed.py --json examples/benchmarks/results/rlvr_bed.json
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import QUIET, Bar, InMemory, be_quiet, finish, options, print_table
from fits import ORDER
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from rlvr import ATTEMPTS, PROMPTS, Band, Curve, Policy, prompts_of
from torch.utils.data import DataLoader, RandomSampler, Sampler

from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.samplers.beta_posterior import BetaPosterior

__all__ = ["FAST", "FULL", "Outcome", "Paired", "Plan", "bars", "main", "run"]

CONFIGS = Path(__file__).parents[2] / "configs" / "sampler"
UNIFORM, ZERO_VARIANCE, BALANCED = "uniform", "zero variance, refill", "balanced [.25, .75], refill"
VADE, MOPPS, SPO = "vade", "mopps", "spo"
WIDE = "mopps, of all prompts"
BANDS = {ZERO_VARIANCE: Band(0.5 / ATTEMPTS, 1 - 0.5 / ATTEMPTS), BALANCED: Band(0.25, 0.75)}
PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    VADE: ("vade", {}),
    MOPPS: ("mopps", {}),
    WIDE: ("mopps", {"pool": None}),
    SPO: ("spo", {}),
}
METHODS = (UNIFORM, *BANDS, *PRESETS)


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    seeds: Sequence[int] = range(8)
    updates: int = 150
    items: int = 4000


FULL = Plan()
FAST = Plan(seeds=(0, 1), updates=6, items=400)

LEGEND = """Mean over {seeds} seeds. Right: chance of a right response over all prompts (pass@1). Best: share of prompts
whose likeliest response is right. At equal updates all methods have had {updates} updates of {prompts} prompts, however
many they tried; at equal generations all have tried {updates} times {prompts} prompts with {attempts} responses each.
Informative: share of the prompts trained on that had right and wrong responses. Leads over uniform are paired by seed,
with their standard error."""


@dataclass(frozen=True)
class Outcome:
    """One fit: at equal updates, and after the last update that the budget of generated batches pays for."""

    right: float
    best: float
    generated: int
    right_in_budget: float
    best_in_budget: float
    updates_in_budget: int
    informative: float


def sampler_of(method: str, prompts: InMemory, plan: Plan, seed: int) -> Sampler[Any]:
    """The presets are those of the configs."""
    draws = plan.updates * PROMPTS
    if method not in PRESETS:
        order = torch.Generator().manual_seed(ORDER + seed)
        return RandomSampler(prompts, replacement=True, num_samples=draws, generator=order)
    preset, changes = PRESETS[method]
    files = [OmegaConf.load(CONFIGS / f"{name}.yaml") for name in ("beta_posterior", preset)]
    fields = OmegaConf.to_container(OmegaConf.merge(*files))
    known = {name: value for name, value in fields.items() if name not in ("_target_", "_partial_", "defaults")}
    return BetaPosterior(prompts, **(known | dict(changes) | {"num_samples": draws, "seed": ORDER + seed}))


def run(method: str, plan: Plan, seed: int) -> Outcome:
    """One fit. Prompts, the policy at the start and uniform's order depend on the seed alone."""
    prompts = prompts_of(seed, plan.items)
    policy, curve = Policy(prompts, seed, BANDS.get(method)), Curve(plan.updates)
    sampler = sampler_of(method, prompts, plan, seed)
    loader = DataLoader(prompts, PROMPTS, sampler=sampler, collate_fn=lambda batch: batch)
    Trainer(**QUIET, max_epochs=1, callbacks=[SamplerFeedback(), curve]).fit(policy, loader)
    informative = float(torch.stack(policy.informative).mean())
    return Outcome(*policy.figures(), policy.generated, *curve.figures, curve.updates, informative)


@dataclass(frozen=True)
class Paired:
    """A difference, seed by seed: its mean and the standard error of that."""

    mean: float
    error: float

    @classmethod
    def of(cls, one: Sequence[Outcome], other: Sequence[Outcome], name: str) -> Paired:
        values = [getattr(a, name) - getattr(b, name) for a, b in zip(one, other, strict=True)]
        return cls(statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)))

    def __str__(self) -> str:
        return f"{self.mean:+.4f} +- {self.error:.4f}"


def bars(found: Mapping[str, Sequence[Outcome]]) -> list[Bar]:
    """Those of the two orders, and of how much more VADE's prompts teach."""

    def ahead(one: str, other: str, name: str) -> float:
        return Paired.of(found[one], found[other], name).mean

    return [
        Bar("T-RLVR per update: zero variance - uniform", ahead(ZERO_VARIANCE, UNIFORM, "right"), "above", 0.0),
        Bar("balanced - zero variance", ahead(BALANCED, ZERO_VARIANCE, "right"), "above", 0.0),
        Bar("per generation: MoPPS - uniform", ahead(MOPPS, UNIFORM, "right_in_budget"), "above", 0.0),
        Bar("VADE - uniform", ahead(VADE, UNIFORM, "right_in_budget"), "above", 0.0),
        Bar("informative: VADE - uniform", ahead(VADE, UNIFORM, "informative"), "at least", 0.05),
    ]


def show(found: Mapping[str, Sequence[Outcome]]) -> None:
    """Both axes."""

    def mean(method: str, name: str) -> float:
        return statistics.mean(getattr(outcome, name) for outcome in found[method])

    def rows(right: str, best: str, cost: str) -> list[list[str]]:
        return [
            [
                method,
                f"{mean(method, right):.3f}",
                str(Paired.of(outcomes, found[UNIFORM], right)) if method != UNIFORM else "",
                f"{mean(method, best):.3f}",
                f"{mean(method, cost):.0f}",
                f"{mean(method, 'informative'):.3f}",
            ]
            for method, outcomes in found.items()
        ]

    header = ["", "right", "lead over uniform", "best"]
    title = "T-RLVR at equal updates"
    print_table(title, [*header, "batches tried", "informative"], rows("right", "best", "generated"))
    title = "T-RLVR at equal generations"
    body = rows("right_in_budget", "best_in_budget", "updates_in_budget")
    print_table(title, [*header, "updates"], [line[:-1] for line in body])


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__)
    plan = FAST if asked.fast else FULL
    torch.set_num_threads(1)
    be_quiet()
    started = time.perf_counter()
    print(LEGEND.format(seeds=len(plan.seeds), updates=plan.updates, prompts=PROMPTS, attempts=ATTEMPTS))
    found = {method: [run(method, plan, seed) for seed in plan.seeds] for method in METHODS}
    show(found)
    figures = {
        method: {name: [round(value, 5) for value in values] for name, values in _columns(outcomes).items()}
        for method, outcomes in found.items()
    }
    return finish("rlvr_bed", figures, bars(found), asked, time.perf_counter() - started)


def _columns(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    lines = [asdict(outcome) for outcome in outcomes]
    return {name: [line[name] for line in lines] for name in lines[0]}


if __name__ == "__main__":
    sys.exit(main())
