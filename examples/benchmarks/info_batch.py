"""InfoBatch against uniform with as many epochs, and against uniform with as many samples and a schedule of its own.

The paper has the first comparison: the same accuracy for fewer samples. It leaves out the second: would uniform, told
to stop so much earlier, have done as well? Here both are paired by seed, in a short and in a long training, through
``Trainer.fit`` with the sampler in the ``DataLoader`` (shrinking mode, and the defaults of the paper: half of the rows
learnt well are left out, the last eighth of the epochs is full).

In every arm the rate falls linearly to zero at the arm's own end. For either uniform it is the best of several, chosen
on validation rows and on seeds that are not reported; InfoBatch has that of uniform with as many epochs, as in the
paper. Digits by default, MNIST from a folder (see `pruning`):

    python examples/benchmarks/info_batch.py --json examples/benchmarks/results/info_batch.json
    python examples/benchmarks/info_batch.py --data PATH --json examples/benchmarks/results/info_batch_mnist.json
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import Bar, be_quiet, finish, options, print_table
from pruning import Images, Outcome, fit, load_images

__all__ = ["FAST", "FULL", "Paired", "Plan", "Regime", "bars", "main", "measure"]

WHOLE, PRUNED, EQUAL = "uniform, as many epochs", "InfoBatch", "uniform, as many samples"
PAIRS = ((PRUNED, WHOLE), (PRUNED, EQUAL), (EQUAL, WHOLE))
QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantile of Student's t, by the degrees of freedom."""


@dataclass(frozen=True)
class Plan:
    """How much is run; the bars are those of the last number of epochs.

    60 epochs because uniform gains next to nothing after them on digits. Of these 51 prune (the first knows no losses,
    the last 8 are full), so that 30 % are skipped where 71 % of the rows are below the mean loss.
    """

    seeds: Sequence[int] = range(5)
    tuning: Sequence[int] = (100, 101, 102)
    epochs: Sequence[int] = (15, 60)
    rates: Sequence[float] = (0.025, 0.05, 0.1, 0.2, 0.4)


FULL = Plan()
FAST = Plan(seeds=(0, 1), tuning=(100,), epochs=(2, 4), rates=(0.1,))

LEGEND = """{images}: {train} rows to train on, {test} to test; means over {seeds} seeds. Batches of all arms have {batch}
rows, so that as many samples are as many updates too. Seconds are those of one core for the whole fit, with all that
InfoBatch does. Differences are paired by seed, with their 95 % interval (Student's t)."""


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
        return 1 - sum(one.samples for one in self.found[PRUNED]) / sum(one.samples for one in self.found[WHOLE])

    def mean(self, arm: str, name: str) -> float:
        return statistics.fmean(getattr(one, name) for one in self.found[arm])

    def paired(self, one: str, other: str, name: str) -> Paired:
        pairs = zip(self.found[one], self.found[other], strict=True)
        return Paired.of([getattr(a, name) - getattr(b, name) for a, b in pairs])


@dataclass(frozen=True)
class Paired:
    """Mean of the differences seed by seed, and its 95 % interval."""

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


def measure(images: Images, plan: Plan, epochs: int) -> Regime:
    """Choose the rates of both uniforms, then run all three arms on the seeds that count."""
    whole, whole_sweep = _best(images, plan, epochs, dict.fromkeys(plan.tuning))
    costs = {seed: fit(images, seed, whole, True, epochs).samples for seed in plan.tuning}
    equal, equal_sweep = _best(images, plan, epochs, costs)
    found: dict[str, list[Outcome]] = {WHOLE: [], PRUNED: [], EQUAL: []}
    for seed in plan.seeds:
        found[WHOLE].append(fit(images, seed, whole, False, epochs))
        found[PRUNED].append(fit(images, seed, whole, True, epochs))
        found[EQUAL].append(fit(images, seed, equal, False, epochs, found[PRUNED][-1].samples))
    rates = {WHOLE: whole, PRUNED: whole, EQUAL: equal}
    return Regime(epochs, rates, {WHOLE: whole_sweep, EQUAL: equal_sweep}, found)


def _best(
    images: Images, plan: Plan, epochs: int, samples: Mapping[int, int | None]
) -> tuple[float, dict[float, float]]:
    """The rate with the best accuracy on validation rows; of equally good ones that with the smaller loss."""
    means: dict[float, tuple[float, float]] = {}
    for rate in plan.rates:
        seen = [fit(images, seed, rate, False, epochs, budget).validation for seed, budget in samples.items()]
        accuracy, loss = (statistics.fmean(column) for column in zip(*seen, strict=True))
        means[rate] = round(accuracy, 9), -loss
    return max(means, key=means.__getitem__), {rate: accuracy for rate, (accuracy, _) in means.items()}


def bars(images: Images, regime: Regime) -> list[Bar]:
    """Enough is skipped, and the interval of what that costs covers zero."""
    cost = regime.paired(PRUNED, WHOLE, "accuracy")
    return [
        Bar(f"{images.name}, {regime.epochs} epochs: share of samples skipped", regime.skipped, "at least", 0.3),
        Bar("accuracy, InfoBatch - uniform: lower end", cost.low, "at most", 0.0),
        Bar("upper end", cost.high, "at least", 0.0),
    ]


def show(images: Images, regime: Regime) -> None:
    """The rates tried, the arms, their differences, and who is ahead where as many samples were paid for."""
    title = f"{images.name}, {regime.epochs} epochs"
    tried = [[arm, *(f"{100 * value:.2f}" for value in sweep.values())] for arm, sweep in regime.sweep.items()]
    print_table(f"{title}: validation accuracy (%) by rate", ["", *map(str, regime.sweep[WHOLE])], tried)
    body = [
        [
            arm,
            f"{regime.rates[arm]:g}",
            f"{regime.mean(arm, 'updates'):.0f}",
            f"{regime.mean(arm, 'samples'):.0f}",
            f"{1 - regime.mean(arm, 'samples') / regime.mean(WHOLE, 'samples'):.1%}",
            f"{regime.mean(arm, 'seconds'):.2f}",
            f"{100 * regime.mean(arm, 'accuracy'):.2f}",
            f"{regime.mean(arm, 'loss'):.4f}",
        ]
        for arm in regime.found
    ]
    print_table(title, ["", "rate", "updates", "samples", "skipped", "seconds", "accuracy (%)", "test loss"], body)
    compared = [
        [
            f"{one} - {other}",
            regime.paired(one, other, "accuracy").text(100, 2),
            regime.paired(one, other, "loss").text(1, 4),
        ]
        for one, other in PAIRS
    ]
    print_table(f"{title}: differences", ["", "accuracy (points)", "test loss"], compared)
    print(f"  With as many samples: {_ahead(regime)}.", flush=True)


def _ahead(regime: Regime) -> str:
    words = []
    for name, sign in (("accuracy", 1), ("loss", -1)):
        found = regime.paired(PRUNED, EQUAL, name)
        clear = found.low > 0 or found.high < 0
        ahead = "InfoBatch" if sign * found.mean > 0 else "uniform"
        words.append(f"{ahead} is ahead in {name}" if clear else f"neither is clearly ahead in {name}")
    return ", ".join(words)


def main(arguments: Sequence[str] | None = None) -> int:
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--data", type=Path)
    mine, rest = more.parse_known_args(arguments)
    asked = options(rest, __doc__)
    plan, started = FAST if asked.fast else FULL, time.perf_counter()
    torch.set_num_threads(1)
    be_quiet()
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    images = load_images(mine.data)
    train, _, test = images.sizes
    print(LEGEND.format(images=images.name, train=train, test=test, seeds=len(plan.seeds), batch=images.batch))
    figures: dict[str, Any] = {}
    for epochs in plan.epochs:
        regime = measure(images, plan, epochs)
        show(images, regime)
        figures[f"{images.name}, {epochs} epochs"] = _figures(regime)
    return finish("info_batch", figures, bars(images, regime), asked, time.perf_counter() - started)


def _figures(regime: Regime) -> dict[str, Any]:
    """For the JSON file."""
    names = ("accuracy", "loss", "updates", "samples", "seconds")
    return {
        "rates": dict(regime.rates),
        "sweep": {arm: dict(sweep) for arm, sweep in regime.sweep.items()},
        "skipped": round(regime.skipped, 4),
        "arms": {
            arm: {name: [round(getattr(one, name), 5) for one in outcomes] for name in names}
            for arm, outcomes in regime.found.items()
        },
        "differences": {
            f"{one} - {other}": {name: asdict(regime.paired(one, other, name)) for name in ("accuracy", "loss")}
            for one, other in PAIRS
        },
        "with as many samples": _ahead(regime),
    }


if __name__ == "__main__":
    sys.exit(main())
