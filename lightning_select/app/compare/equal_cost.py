"""Uniform at equal cost: what uniform training comes to with the compute that a method takes.

A method that scores rows, or trains a reference, does more work per step than uniform, and one that drops rows does
less. Beside uniform with as many steps, every method is therefore compared with uniform that is run as long as the same
compute lasts, with its own learning-rate schedule over its own length, evaluated as often. The cost of a run is counted
in forward passes of a row: one for every row of a training or scoring step, and two more where a backward pass follows;
reference models in full. A module of another size than uniform's is counted as if it were of the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from lightning_select.app.compare.methods import GROUP, NONE, UNIFORM, Method
from lightning_select.app.compare.runs import Run

__all__ = [
    "TOLERANCE",
    "baseline_name",
    "baselines_of",
    "is_baseline",
    "missed_cost",
    "missing_baselines",
    "plan_baseline",
]

TOLERANCE = 0.05
"""Costs that differ by less than this share count as the same."""

_PREFIX = f"{UNIFORM} (cost of "


def baseline_name(method: str) -> str:
    """Name of uniform at the cost of a method."""
    return f"{_PREFIX}{method})"


def is_baseline(name: str) -> bool:
    """Is this the name of uniform at the cost of some method?"""
    return name.startswith(_PREFIX)


def baselines_of(runs: Iterable[Run]) -> dict[str, str]:
    """For each method the name of uniform at its cost: uniform itself where their costs agree.

    Decided by the first seed on which a method and uniform have finished, so that it does not change from seed to seed.
    Methods whose costs agree share one, which is named after the first of them.
    """
    done = [run for run in runs if not run.error and run.cost]
    uniform = {run.seed: run for run in done if run.method == UNIFORM}
    relative: dict[str, float] = {}
    for run in done:
        if run.method != UNIFORM and not is_baseline(run.method) and run.seed in uniform:
            relative.setdefault(run.method, run.cost / uniform[run.seed].cost)
    trained = {run.method for run in done if is_baseline(run.method)}
    owners = {name: cost for name, cost in relative.items() if baseline_name(name) in trained}
    chosen = {}
    for name, cost in relative.items():
        if _agree(cost, 1.0):
            chosen[name] = UNIFORM
            continue
        owner = name if name in owners else next((one for one in owners if _agree(cost, owners[one])), name)
        owners.setdefault(owner, cost)
        chosen[name] = baseline_name(owner)
    return chosen


def missing_baselines(runs: Sequence[Run], seed: int) -> list[tuple[str, Run, Run]]:
    """Runs of uniform at equal cost that a seed lacks: its name, the run whose cost it has, and that of uniform."""
    by_method = {run.method: run for run in runs if run.seed == seed}
    uniform = by_method.get(UNIFORM)
    if uniform is None or uniform.error:
        return []
    missing: dict[str, tuple[str, Run, Run]] = {}
    for method, name in baselines_of(runs).items():
        run = by_method.get(method)
        named_after = baseline_name(method) == name  # its cost counts, where it has finished
        if run and not run.error and name not in by_method and (named_after or name not in missing):
            missing[name] = (name, run, uniform)
    return list(missing.values())


def plan_baseline(name: str, run: Run, uniform: Run, config: DictConfig) -> tuple[Method, Mapping[str, Any]]:
    """Overrides of uniform at the cost of ``run``, and arguments of its Trainer.

    The length stands in the config, so that a schedule which refers to ``${trainer.max_steps}`` or
    ``${trainer.max_epochs}`` follows it, as one that asks the Trainer does. It is rounded up to a multiple of the
    number of evaluations where that adds at most 2 %, so that the last of them is at the end.

    Args:
        name: Name of the baseline.
        run: The run whose cost it has.
        uniform: Uniform's run on the same seed.
        config: The config of uniform.
    """
    steps = max(1, round(run.cost * uniform.steps / uniform.cost))
    per_step = uniform.batches / max(uniform.steps, 1)
    evaluations = max(1, len(run.points))
    whole = math.ceil(steps / evaluations) * evaluations
    steps = whole if whole <= 1.02 * steps else steps
    every = max(1, int(steps * per_step / evaluations))
    budget = {"max_epochs": -1, "max_steps": steps, "val_check_interval": every, "check_val_every_n_epoch": None}
    epochs = config.trainer.get("max_epochs")
    counted = isinstance(epochs, int) and epochs > 0
    epochs = math.ceil(epochs * steps / uniform.steps) if counted else -1
    overrides = [f"{GROUP}={NONE}", f"++trainer.max_epochs={epochs}", f"++trainer.max_steps={steps}"]
    overrides += [f"++trainer.val_check_interval={every}", "++trainer.check_val_every_n_epoch=null"]
    return Method(name, tuple(overrides)), budget


def missed_cost(baseline: Run, run: Run, uniform: Run) -> str:
    """Why a run that was to cost as much as ``run`` does not count as one; empty where it does.

    It may end early by a callback or by the clock. What rounding to whole steps comes to is forgiven.

    Args:
        baseline: Uniform at the cost of ``run``.
        run: The run whose cost it was to have.
        uniform: Uniform's run on the same seed.
    """
    if abs(baseline.cost - run.cost) <= max(TOLERANCE * run.cost, uniform.cost / max(uniform.steps, 1)):
        return ""
    multiples = [f"{one.cost / uniform.cost:.2f}x uniform" for one in (baseline, run)]
    return f"it cost {multiples[0]}, {run.method} {multiples[1]}"


def _agree(cost: float, other: float) -> bool:
    return abs(cost / other - 1) <= TOLERANCE
