"""What the greedy choice of DivBS takes without the gradients, and with them.

``DivBS`` against the greedy choice as the official code makes it (github.com/Feng-Hong/DivBS), with the largest
correlation in the place of its draw and without repetitions: the gradient of every row in the last layer, rows by
classes times features, and for each pick the correlations of all of them, the matrix of chosen directions put together
anew, and the index read back. A third arm does the same work with the directions kept in one matrix, and has no bar.
All start from logits, targets and features, in float32 on one thread.

Arms take turns in one process. A round gives one median per arm, and one ratio; the table has the medians over the
rounds. Picks are compared over five seeds: the share of the rows of the official choice that ours has as well.

    python examples/benchmarks/divbs.py --json examples/benchmarks/results/divbs.json
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from common import Bar, finish, options, print_table
from draws import turn
from overhead import Ratio, load
from torch import Tensor

from lightning_select.protocols import SelectionContext
from lightning_select.selectors.divbs import DivBS
from lightning_select.signals.base import Signals

__all__ = ["ARMS", "Figure", "Plan", "Size", "bars", "compare", "gradients_of", "main", "same_picks"]


@dataclass(frozen=True)
class Size:
    """A candidate batch, and how many of its rows are kept."""

    rows: int
    count: int
    classes: int
    features: int

    @property
    def gradient(self) -> int:
        """Numbers in the gradient of one row."""
        return self.classes * self.features

    def __str__(self) -> str:
        return f"{self.count} of {self.rows:,} rows, {self.gradient:,} weights"


@dataclass(frozen=True)
class Plan:
    """Batches (the last two have the bars), rounds, seconds of one turn at least, and seeds of the picks."""

    sizes: Sequence[Size] = (
        Size(320, 32, 10, 512),
        Size(320, 32, 100, 512),
        Size(1024, 102, 10, 512),
        Size(1024, 102, 100, 512),
    )
    rounds: int = 15
    turn: float = 0.1
    seeds: int = 5


FAST = Plan(
    sizes=(Size(24, 3, 3, 8), Size(24, 3, 6, 8), Size(48, 5, 3, 8), Size(48, 5, 6, 8)), rounds=2, turn=0.002, seeds=2
)


@dataclass(frozen=True)
class Figure:
    """One arm at one size; ``ratio`` is its time divided by ours, ``same`` the share of its picks that are ours too."""

    size: str
    arm: str
    milliseconds: float
    ratio: Ratio | None
    same: float | None


def batch_of(size: Size, seed: int) -> Signals:
    """Rows of random logits, classes and features; the latter as they come out of a ReLU."""
    g = torch.Generator().manual_seed(seed)
    return Signals(
        logits=2 * torch.randn(size.rows, size.classes, generator=g),
        targets=torch.randint(size.classes, (size.rows,), generator=g),
        hidden=torch.randn(size.rows, size.features, generator=g).relu(),
    )


def ours(signals: Signals, count: int) -> list[int]:
    """The selector as the callback calls it."""
    logits = signals.need("logits", "divbs")
    context = SelectionContext(signals, torch.Generator().manual_seed(0))
    return DivBS()(torch.zeros(len(logits)), count, context).index.tolist()


def gradients_of(signals: Signals) -> Tensor:
    """One row of classes times features for every row of the batch."""
    logits, targets, hidden = (signals.need(name, "divbs") for name in ("logits", "targets", "hidden"))
    errors = torch.softmax(logits, dim=-1)
    errors[torch.arange(len(targets)), targets] -= 1
    return (errors.unsqueeze(-1) * hidden.unsqueeze(1)).flatten(1)


def official(signals: Signals, count: int) -> list[int]:
    """A pick at a time, with all directions put together for each."""
    gradients = gradients_of(signals)
    chosen: list[int] = []
    directions: list[Tensor] = []
    columns, rest = gradients.t(), gradients.mean(dim=0).unsqueeze(-1)
    for _ in range(count):
        correlations = torch.matmul(columns.t(), rest).abs().squeeze(1)
        correlations[chosen] = -1.0
        pick = correlations.argmax().reshape(1)
        chosen.append(int(pick.item()))
        direction = columns[:, pick]
        if directions:
            known = torch.cat(directions, dim=1)
            direction = direction - torch.matmul(known, torch.matmul(known.t(), direction))
        direction = direction / torch.norm(direction)
        directions.append(direction)
        rest = rest - torch.matmul(direction.t(), rest) * direction
    return sorted(chosen)


def in_one_matrix(signals: Signals, count: int) -> list[int]:
    """The same with directions as rows of a matrix that is there from the beginning."""
    gradients = gradients_of(signals)
    chosen: list[int] = []
    known, rest = gradients.new_empty(count, gradients.shape[1]), gradients.mean(dim=0)
    for number in range(count):
        correlations = (gradients @ rest).abs()
        correlations[chosen] = -1.0
        chosen.append(int(correlations.argmax().item()))
        direction = gradients[chosen[-1]]
        direction = direction - (known[:number] @ direction) @ known[:number]
        known[number] = direction / direction.norm()
        rest = rest - (known[number] @ rest) * known[number]
    return sorted(chosen)


ARMS: dict[str, Callable[[Signals, int], list[int]]] = {
    "DivBS": ours,
    "plain greedy": official,
    "plain greedy, directions in one matrix": in_one_matrix,
}


def same_picks(arm: str, size: Size, seeds: int) -> float:
    """Share of the picks of ``arm`` that are ours as well."""
    shared = 0
    for seed in range(seeds):
        signals = batch_of(size, seed)
        shared += len(set(ARMS[arm](signals, size.count)) & set(ours(signals, size.count)))
    return shared / (seeds * size.count)


def compare(size: Size, plan: Plan) -> list[Figure]:
    """Every round goes through all arms, there and back again in turn."""
    signals, cpu = batch_of(size, 0), torch.device("cpu")
    taken: dict[str, list[float]] = {name: [] for name in ARMS}
    for number in range(-1, plan.rounds):
        for name in list(ARMS)[:: 1 if number % 2 else -1]:
            median, _ = turn(partial(ARMS[name], signals, size.count), plan.turn, cpu)
            if number >= 0:  # the first round warms up
                taken[name].append(median)
    return [
        Figure(
            size=str(size),
            arm=name,
            milliseconds=statistics.median(taken[name]) * 1e3,
            ratio=Ratio.of([a / b for a, b in zip(taken[name], taken["DivBS"], strict=True)]) if number else None,
            same=same_picks(name, size, plan.seeds) if number else None,
        )
        for number, name in enumerate(ARMS)
    ]


def bars(figures: Sequence[Figure], plan: Plan) -> list[Bar]:
    """Speed at the largest batches, and the picks at all."""
    official_ones = {one.size: one for one in figures if one.arm == "plain greedy"}
    speed = [
        Bar(f"plain/ours, {size}", found.ratio.median, "at least", 8)
        for size in plan.sizes[-2:]
        if (found := official_ones[str(size)]).ratio
    ]
    least = min(one.same for one in official_ones.values() if one.same is not None)
    return [*speed, Bar("share of identical picks", least, "at least", 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__)
    torch.set_num_threads(1)
    plan, started, figures = FAST if asked.fast else Plan(), time.perf_counter(), []
    print(f"cpu, one thread; load of the machine {load()}")
    for size in plan.sizes:
        found = compare(size, plan)
        print_table(
            str(size),
            ["", "median ms", "times ours (95 %)", "identical picks"],
            [
                [
                    one.arm,
                    f"{one.milliseconds:.2f}",
                    str(one.ratio or ""),
                    "" if one.same is None else f"{one.same:.1%}",
                ]
                for one in found
            ],
        )
        figures += found
    held = bars(figures, plan)
    return finish("divbs", [asdict(one) for one in figures], held, asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
