"""Time to the accuracy that uniform ends with, and accuracy at equal cost, on images, texts and rows of a table.

Ordinary modules go through ``Trainer.fit``. The tasks (`tta_tasks`): 10,000 rows of MNIST, of which 9,000 are near
copies (moved by up to a pixel, noise of .05) of 100 digits and 1,000 are other digits, 10 % of all labels made wrong;
12,000 images of CIFAR-10 with people's worst labels (40 % wrong), 16 x 16 pixels; Banking77 as hashed words and pairs
of words; Adult. Without ``--data``, scikit-learn's digits: redundant and noisy, and as they are.

Methods are the recipes and samplers with their defaults, except that `dynamic_loss` has the temperature 1 (in a few
trials about even with the .4 of the recipe) and `uds` keeps a half (better than a quarter). `rank_online` stands for
stale losses that cost no extra pass. References of `rho_loss` are two copies of the module, one per half of the rows,
and get a third of its compute. With *spare rows*, as in the paper, a smaller network learns from 2,000 further digits,
10 % of their labels wrong too. These are more data than uniform has, so uniform with these rows among its own is shown
as well.

Found, on 5 seeds: `rho_loss` with spare rows gets to uniform's accuracy on the redundant digits after .13 of its
updates and .57 of its time, on all seeds, where it may cost as much as uniform; that takes .72 of the compute. Ended at
.7 of the compute, where the tuning seeds had it ahead, it gets there on 2 of 5 seeds, and so misses its bars, which go
by that setting. Uniform that trains on the spare rows is 3.9 points ahead instead and needs .35 of the updates and of
the compute. Without spare rows `rho_loss` never gets there: references that know half of 1,100 different digits, 10 %
wrong, know less than uniform ends with. Where no label was made wrong no method saves the time it should (.75): on
Adult the sampler of balanced difficulty needs .62 of the updates in 1.4 times the seconds, `uds` .55 in 2.7 times. RS2
draws as uniform does and shows what is chance: .85 of the updates on CIFAR-10N, 1.12 on the redundant digits. InfoBatch
is .4 to .9 points ahead on those at equal cost, in as much time, and not clearly ahead elsewhere.

How the redundant task came about: of three sizes the first one tried stayed; the spare rows came in after `rho_loss`
had failed without them, and 800 updates took the place of 600 for its sake, all on tuning seeds. A first run on seeds 0
to 4 had spare and validation rows from the first half of MNIST's test part and the test rows from the second, which is
easier; `rho_loss` with spare rows was .9 points behind there. Then spare rows were taken from the part to train on, the
halves shuffled, all methods tuned again, and the seeds changed; some of the test rows are the same.

Tried for less time, on tuning seeds and one or two of them: Banking77 with 1 to 4 passes and 256 or 512 units wide, and
clean MNIST with 512 units (loss-proportional and rank samplers, `dynamic_loss`, a quarter kept by loss). Leads at small
rates were gone, or below half a point, against uniform at its best rate; on MNIST that rate was not tried for all.

    python examples/benchmarks/time_to_accuracy.py --data PATH --json examples/benchmarks/results/time_to_accuracy.json
    python examples/benchmarks/time_to_accuracy.py --json examples/benchmarks/results/time_to_accuracy_digits.json
"""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import Bar, be_quiet, finish, options, print_table
from fits import Spread
from tta_arms import RHO, RHO_SPARE, UNIFORM, run
from tta_fit import Outcome
from tta_settings import SETTINGS, WALL
from tta_tasks import Task, tasks
from tta_tuning import Setting, methods_of, settings_from, tune

__all__ = ["Found", "bars", "main", "measure", "show"]

AXES = ("updates", "forward", "backward", "units", "seconds")
SEEDS, TUNING = range(5, 10), (100, 101)
"""Seeds 0 to 4 are not used: a task was changed after a run on them (see above)."""

LEGEND = """\
On every seed, the target is the accuracy on the test rows that uniform ends with, and a run gets there at its first
look (of 20) that is at least as high. Each column up to seconds is what a method took until then, over what uniform
took until its own first such look: median of {seeds} paired seeds (lowest..highest), 'never' where it does not get
there. 'cost' is the compute at which a run ends, of uniform's: the least of 1, .7 and .5 that got as far as uniform on
the tuning seeds. A row forward is 1 and back 2, in a smaller reference network less; references, probes and scoring
count. Seconds are of one core, with everything but the looks. 'at equal cost' is the last accuracy less that of uniform
at the same cost, in points; every run has a rate that falls to zero at its own end, from the best of three."""


@dataclass(frozen=True)
class Found:
    """Of one task: outcomes seed by seed, by method and compute."""

    task: Task
    settings: Mapping[str, Setting]
    outcomes: Mapping[tuple[str, float], Sequence[Outcome]]

    def target(self) -> list[float]:
        return [one[-1].accuracy for one in self.outcomes[UNIFORM, 1.0]]

    def needed(self, name: str, share: float, axis: str) -> list[float]:
        """What it took to get to the target, over what uniform took."""
        return [
            _needs(one, target, axis) / _needs(base, target, axis)
            for one, base, target in zip(
                self.outcomes[name, share], self.outcomes[UNIFORM, 1.0], self.target(), strict=True
            )
        ]

    def lead(self, name: str, share: float) -> list[float]:
        """Last accuracy less that of uniform at the same cost, in points."""
        pairs = zip(self.outcomes[name, share], self.outcomes[UNIFORM, share], strict=True)
        return [100 * (one[-1].accuracy - base[-1].accuracy) for one, base in pairs]


def _needs(outcome: Outcome, accuracy: float, axis: str) -> float:
    return float(next((getattr(look, axis) for look in outcome if look.accuracy >= accuracy), math.inf))


def measure(task: Task, settings: Mapping[str, Setting], seeds: Sequence[int]) -> Found:
    """Every method at uniform's cost and at its own; uniform at each of these."""
    shares = {1.0, *(one.share for one in settings.values())}
    arms = [
        (name, share)
        for name, setting in settings.items()
        for share in sorted(shares if name == UNIFORM else {1.0, setting.share}, reverse=True)
    ]
    outcomes: dict[tuple[str, float], list[Outcome]] = {arm: [] for arm in arms}
    for seed in seeds:
        # There and back again, so that a machine that slows down harms everyone alike.
        for name, share in arms[:: 1 if seed % 2 else -1]:
            outcomes[name, share].append(run(task, name, settings[name].rate, share, seed))
            if sys.stderr.isatty():
                print(f"\r{task.name}, seed {seed}: {name:32s}", end="", file=sys.stderr)
    return Found(task, settings, outcomes)


def show(found: Found) -> None:
    """Uniform as it is, then everyone against it."""
    whole = [one[-1] for one in found.outcomes[UNIFORM, 1.0]]
    own = ", ".join(f"{statistics.median(getattr(one, axis) for one in whole):.4g} {axis}" for axis in AXES)
    ends = Spread.of(100 * one for one in found.target())
    body = []
    for (name, share), outcomes in found.outcomes.items():
        if (name, share) == (UNIFORM, 1.0):
            continue
        needed = [found.needed(name, share, axis) for axis in AXES]
        reached = sum(math.isfinite(one) for one in needed[0])
        cells = [name, f"{found.settings[name].rate:g}", f"{share:g}", f"{reached} of {len(outcomes)}"]
        body.append([*cells, *map(_told, needed), f"{Spread.of(found.lead(name, share)):+.1f}"])
    header = ["", "rate", "cost", "get there", "updates", "forward", "backward", "compute", "seconds", "at equal cost"]
    print_table(f"{found.task.name}: uniform ends with {ends:.1f} % after {own}", header, body)


def _told(values: Sequence[float]) -> str:
    spread = Spread.of(values)
    if math.isinf(spread.low):
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)}..{_number(spread.high)})"


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"


def bars(found: Mapping[str, Found]) -> list[Bar]:
    """RHO on the redundant rows; and what the tuning seeds said would save most time where no label was made wrong."""
    limits = []
    for one in found.values():
        if one.task.spare is not None:
            for name in (RHO_SPARE, RHO):
                share = one.settings[name].share
                updates, units = (statistics.median(one.needed(name, share, axis)) for axis in ("updates", "units"))
                limits += [
                    Bar(f"{one.task.name}, {name}: updates to the accuracy of uniform", updates, "at most", 0.25)
                ]
                limits += [Bar("compute", units, "at most", 0.7)]
    seconds = {
        f"{name}, {method}": statistics.median(one.needed(method, one.settings[method].share, "seconds"))
        for name, one in found.items()
        if (method := WALL.get(name)) is not None
    }
    least = min(seconds, key=seconds.__getitem__)
    limits.append(Bar(f"no label made wrong, {least}: seconds", seconds[least], "at most", 0.75))
    return limits


def figures(found: Found) -> dict[str, Any]:
    """For the JSON file."""
    return {
        "uniform": {axis: [round(getattr(one[-1], axis), 3) for one in found.outcomes[UNIFORM, 1.0]] for axis in AXES},
        "target": [round(one, 5) for one in found.target()],
        "runs": [
            {
                "method": name,
                "rate": found.settings[name].rate,
                "cost": share,
                "needed": {axis: [round(one, 4) for one in found.needed(name, share, axis)] for axis in AXES},
                "points at equal cost": [round(one, 3) for one in found.lead(name, share)],
                "accuracy": [[round(look.accuracy, 4) for look in one] for one in outcomes],
            }
            for (name, share), outcomes in found.outcomes.items()
        ],
    }


def tuned(chosen: Sequence[Task], seeds: Sequence[int]) -> None:
    """Print every trial, and the settings that follow."""
    for task in chosen:
        trials = list(tune(task, seeds))
        rows = [[t.method, f"{t.setting.rate:g}", f"{t.setting.share:g}", f"{100 * t.accuracy:.2f}"] for t in trials]
        print_table(f"{task.name}: validation accuracy (%)", ["", "rate", "cost", "accuracy"], rows)
        for (_, method), setting in settings_from(trials).items():
            print(f"  {method}: {setting}")


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__, paths=("data",), flags=("tune",))
    started = time.perf_counter()
    torch.set_num_threads(1)
    be_quiet()
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=r".*\b(from scratch|fresh|reference)\b.*")
    chosen = tasks(asked.data)
    if asked.fast:
        chosen = [replace(task, steps=max(20, task.steps // 20)) for task in chosen]
    if asked.tune:
        tuned(chosen, TUNING)
        return 0
    seeds = SEEDS[:1] if asked.fast else SEEDS
    print(LEGEND.format(seeds=len(seeds)))
    found = {}
    for task in chosen:
        if task is chosen[0]:
            run(task, UNIFORM, task.rates[0], 0.1, TUNING[0])  # what is made or loaded once is nobody's time
        found[task.name] = measure(task, {name: SETTINGS[task.name][name] for name in methods_of(task)}, seeds)
        show(found[task.name])
    record = {name: figures(one) for name, one in found.items()}
    return finish("time_to_accuracy", record, bars(found), asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
