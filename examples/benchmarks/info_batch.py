"""InfoBatch against uniform with as many epochs, and against uniform with as many samples and a schedule of its own.

The paper has the first comparison: the same accuracy for fewer samples. It leaves out the second: would uniform, told
to stop so much earlier, have done as well? Here both are paired by seed, in a short and in a long training, through
``Trainer.fit`` with the sampler in the ``DataLoader`` (shrinking mode, and the defaults of the paper: half of the rows
learnt well are left out, the last eighth of the epochs is full).

In every arm the rate falls linearly to zero at the arm's own end, from the best of several. In the paper InfoBatch has
the rate of uniform. That has a row too, but no bar: InfoBatch stands a smaller largest rate than uniform (see the rates
tried), for the rows that stay weigh up to about twice as much, and at the rate of uniform some seeds can collapse. On
digits 4 of 6 tuning seeds do at the rate 0.2 in 60 epochs; without weights none does, and none of uniform. A collapse
makes the interval of the difference so wide that it covers anything; hence the bar on its width.

Found: 37 % are skipped in the long training, and on 5 seeds no cost in accuracy can be told, for InfoBatch at its own
rate. At the rate of uniform it loses 0.7 points on MNIST (0.1 to 1.2). With as many samples neither InfoBatch nor
uniform is clearly ahead, short or long, on either data. Against uniform with all epochs the time saved is small or
negative where a step is as small as here (in the long training 3 % less on MNIST, 20 % more on digits).

Digits by default, MNIST from a folder (see `pruning`):

    python examples/benchmarks/info_batch.py --json examples/benchmarks/results/info_batch.json
    python examples/benchmarks/info_batch.py --data PATH --json examples/benchmarks/results/info_batch_mnist.json
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from common import Bar, be_quiet, finish, options, print_table
from pruning import Images, load_images
from pruning_arms import FAST, FULL, PAIRS, PRUNED, WHOLE, Regime, measure

__all__ = ["bars", "main", "show"]

WIDTH = 0.02
"""Widest interval of the difference in accuracy that says anything: one point to either side."""

LEGEND = """{images}: {train} rows to train on, {test} to test; means over {seeds} seeds, and the worst of them. Batches
of all arms have {batch} rows, so that as many samples are as many updates too. Seconds are those of one core for the
whole fit, with all that InfoBatch does. Differences are paired by seed, with their 95 % interval (Student's t)."""


def bars(images: Images, regime: Regime) -> list[Bar]:
    """Enough is skipped, and the interval of what that costs covers zero and is not too wide to tell."""
    cost = regime.paired(PRUNED, WHOLE, "accuracy")
    return [
        Bar(f"{images.name}, {regime.epochs} epochs: share of samples skipped", regime.skipped, "at least", 0.3),
        Bar("accuracy, InfoBatch - uniform: lower end", cost.low, "at most", 0.0),
        Bar("upper end", cost.high, "at least", 0.0),
        Bar("width", cost.high - cost.low, "at most", WIDTH),
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
            f"{100 * min(one.accuracy for one in outcomes):.2f}",
            f"{regime.mean(arm, 'loss'):.4f}",
        ]
        for arm, outcomes in regime.found.items()
    ]
    header = ["", "rate", "updates", "samples", "skipped", "seconds", "accuracy (%)", "worst", "test loss"]
    print_table(title, header, body)
    compared = [
        [
            f"{one} - {other}",
            regime.paired(one, other, "accuracy").text(100, 2),
            regime.paired(one, other, "loss").text(1, 4),
        ]
        for one, other in PAIRS
    ]
    print_table(f"{title}: differences", ["", "accuracy (points)", "test loss"], compared)
    print(f"  With as many samples: {regime.ahead()}.", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__, paths=("data",))
    plan, started = FAST if asked.fast else FULL, time.perf_counter()
    torch.set_num_threads(1)
    be_quiet()
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    images = load_images(asked.data)
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
        "sweep": {arm: {rate: round(value, 5) for rate, value in sweep.items()} for arm, sweep in regime.sweep.items()},
        "skipped": round(regime.skipped, 4),
        "arms": {
            arm: {name: [round(getattr(one, name), 5) for one in outcomes] for name in names}
            for arm, outcomes in regime.found.items()
        },
        "differences": {
            f"{one} - {other}": {name: asdict(regime.paired(one, other, name)) for name in ("accuracy", "loss")}
            for one, other in PAIRS
        },
        "with as many samples": regime.ahead(),
    }


if __name__ == "__main__":
    sys.exit(main())
