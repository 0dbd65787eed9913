"""How long it takes to draw 1,024 rows in proportion to their weights, and to change 1,024 weights.

``WeightedDraw`` against ``torch.multinomial`` on the same float32 weights, with replacement against with, without
against without, and against the sum tree of cpprb (``pip install cpprb``; its row and its bar fail without it). The
calls are those of the documentation: ``PrioritizedReplayBuffer.sample`` has no form that returns indices alone, so it
also copies the rows, here of one byte each, and computes importance weights. ``torch.multinomial`` stops at 2^24 rows.

Arms take turns in one process. A round gives one median per arm, and one ratio; the table has the medians over the
rounds, and beside them what the first call of a turn took, when the caches are still full of what others did.
``--large`` adds 1e8 rows. ``--device cuda`` runs on a GPU, where the one bar is that neither a draw nor a change makes
the host wait, at any size.

    python examples/benchmarks/draws.py --json examples/benchmarks/results/draws.json
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from common import Bar, finish, options, print_table
from overhead import Ratio, load

from lightning_select.samplers.draw import WeightedDraw

__all__ = ["Figure", "Plan", "arms_at", "bars", "compare", "main", "waits"]

COUNT = 1024
TURNS = 64
"""Sets of rows that changes go through, so that no cache holds the rows of all."""

OURS = {
    "draw": "WeightedDraw, with replacement",
    "distinct": "WeightedDraw, without replacement",
    "set": "WeightedDraw, change of 1,024",
}
MULTINOMIAL = {"draw": "torch.multinomial, with", "distinct": "torch.multinomial, without"}
CPPRB = {"draw": "cpprb, sample", "set": "cpprb, update_priorities"}
Arm = Callable[[], Any]


@dataclass(frozen=True)
class Plan:
    """Numbers of rows (the second has the bar on cpprb, the third the others), rounds, and seconds of one turn."""

    sizes: Sequence[int] = (10**5, 10**6, 10**7)
    large: int = 10**8
    rounds: int = 21
    turn: float = 0.03


FAST = Plan(sizes=(1000, 2000, 4000), large=8000, rounds=2, turn=0.002)


@dataclass(frozen=True)
class Figure:
    """One arm at one size; ``ratio`` is the time of the arm divided by ours for the same work."""

    rows: int
    arm: str
    milliseconds: float
    first_milliseconds: float
    ratio: Ratio | None


def arms_at(rows: int, device: torch.device) -> dict[str, Arm]:
    """Everything that can be done with this many rows, on weights that are the same for all."""
    weights = torch.rand(rows, generator=torch.Generator().manual_seed(1)).square().to(device)
    draws, generator = WeightedDraw(rows, device=device), torch.Generator(device).manual_seed(2)
    draws.set_all(weights)
    ids = torch.randint(rows, (TURNS, COUNT), device=device, generator=generator)
    changes = itertools.cycle([(some, weights[some].clone()) for some in ids])
    arms: dict[str, Arm] = {
        OURS["draw"]: lambda: draws.draw(COUNT, generator),
        OURS["distinct"]: lambda: draws.draw(min(COUNT, rows), generator, replacement=False),
        OURS["set"]: lambda: draws.set(*next(changes)),
    }
    if rows < 2**24:
        arms[MULTINOMIAL["draw"]] = lambda: torch.multinomial(weights, COUNT, True, generator=generator)
        arms[MULTINOMIAL["distinct"]] = lambda: torch.multinomial(weights, min(COUNT, rows), False, generator=generator)
    if device.type == "cpu" and rows < 2**24:
        arms |= cpprb_arms(weights, ids)
    return arms


def cpprb_arms(weights: torch.Tensor, ids: torch.Tensor) -> dict[str, Arm]:
    """None where cpprb is not installed."""
    try:
        from cpprb import PrioritizedReplayBuffer
    except ImportError:
        return {}
    buffer = PrioritizedReplayBuffer(len(weights), {"byte": {"dtype": np.uint8}}, alpha=1.0)
    buffer.add(byte=np.zeros(len(weights), dtype=np.uint8), priorities=weights.numpy())
    changes = itertools.cycle([(some.numpy(), weights[some].numpy()) for some in ids])
    return {
        CPPRB["draw"]: lambda: buffer.sample(COUNT),
        CPPRB["set"]: lambda: buffer.update_priorities(*next(changes)),
    }


def turn(arm: Arm, seconds: float, device: torch.device) -> tuple[float, float]:
    """Median and first of as many calls as fit into ``seconds``, one at least."""
    taken: list[float] = []
    while not taken or sum(taken) < seconds:
        started = time.perf_counter()
        arm()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), taken[0]


def compare(arms: Mapping[str, Arm], rows: int, plan: Plan, device: torch.device) -> list[Figure]:
    """Every round goes through all arms, there and back again in turn."""
    for arm in arms.values():
        turn(arm, plan.turn / 4, device)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for number in range(plan.rounds):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            taken[name].append(turn(arms[name], plan.turn, device))
    against = {other[work]: OURS[work] for other in (MULTINOMIAL, CPPRB) for work in other}
    medians = {name: [median for median, _ in turns] for name, turns in taken.items()}
    return [
        Figure(
            rows=rows,
            arm=name,
            milliseconds=statistics.median(medians[name]) * 1e3,
            first_milliseconds=statistics.median(first for _, first in taken[name]) * 1e3,
            ratio=Ratio.of([a / b for a, b in zip(medians[name], medians[against[name]], strict=True)])
            if name in against
            else None,
        )
        for name in arms
    ]


def waits(arms: Mapping[str, Arm]) -> int:
    """How many of our operations let the host wait for the GPU; torch names the first place of each."""
    found = 0
    for name in OURS.values():
        arms[name]()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            arms[name]()
        except RuntimeError as error:
            found += 1
            print(f"{name} waits: {error}")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found


def bars(figures: Sequence[Figure], plan: Plan) -> list[Bar]:
    """A figure that could not be taken is not a number, and holds no bar."""
    _, middle, most = plan.sizes

    def figure(rows: int, arm: str) -> Figure | None:
        return next((one for one in figures if (one.rows, one.arm) == (rows, arm)), None)

    def times(rows: int, arm: str) -> float:
        found = figure(rows, arm)
        return found.ratio.median if found and found.ratio else float("nan")

    change = figure(most, OURS["set"])
    return [
        Bar(f"multinomial/ours at {most:.0e}, with replacement", times(most, MULTINOMIAL["draw"]), "at least", 40),
        Bar(f"multinomial/ours at {most:.0e}, without", times(most, MULTINOMIAL["distinct"]), "at least", 40),
        Bar(f"ours/cpprb at {middle:.0e}", 1 / times(middle, CPPRB["draw"]), "at most", 1.5),
        Bar(f"ms for a change at {most:.0e}", change.milliseconds if change else float("nan"), "below", 0.5),
    ]


def show(rows: int, figures: Sequence[Figure]) -> None:
    """All arms at one size."""
    lines = [
        [one.arm, f"{one.milliseconds:.3f}", f"{one.first_milliseconds:.3f}", str(one.ratio or "")] for one in figures
    ]
    print_table(f"{COUNT} of {rows:,} rows", ["", "median ms", "first ms", "times ours (95 %)"], lines)
    if not any(one.arm in CPPRB.values() for one in figures) and rows < 2**24:
        print("  cpprb: not measured (CPU only, and `pip install cpprb` is needed)")


def ask(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options that all benchmarks have, and two more."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--large", action="store_true")
    more.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    mine, rest = more.parse_known_args(arguments)
    return argparse.Namespace(**vars(mine), **vars(options(rest, __doc__)))


def main(arguments: Sequence[str] | None = None) -> int:
    asked = ask(arguments)
    torch.set_num_threads(1)
    plan, started = FAST if asked.fast else Plan(), time.perf_counter()
    on_gpu, waited, figures = asked.device.type == "cuda", 0, []
    print(f"{asked.device}, one thread; load of the machine {load()}")
    for rows in [*plan.sizes, *([plan.large] if asked.large else [])]:
        arms = arms_at(rows, asked.device)
        waited += waits(arms) if on_gpu else 0
        found = compare(arms, rows, plan, asked.device)
        show(rows, found)
        figures += found
    held = [Bar("operations that wait", waited, "at most", 0)] if on_gpu else bars(figures, plan)
    return finish("draws", [asdict(one) for one in figures], held, asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
