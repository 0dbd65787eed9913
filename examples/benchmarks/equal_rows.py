"""T-BATCH once more, at equal cost: what does uniform reach with every row that a method had, scored rows included?

Uniform has batches of 32 or of 320, and for either the best of several rates that decay to zero; so have the two
methods whose cost is matched, as a second line. Rates are chosen on seeds that are not reported.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common import print_table
from fits import Job, Outcomes, Runs, Spread, lead, plain
from t_batch import CANDIDATES, HASTY, KEPT, MAX_LOSS, RATE, RHO, SELECTIONS, UNIFORM, Plan, Table, run

__all__ = ["Equal", "figures", "measure", "show"]

PAYERS = {method: RHO if method in (RHO, HASTY) else MAX_LOSS for method in SELECTIONS}
"""Whose number of rows uniform gets: methods without a reference cost the same, the two with one 2 % apart."""


@dataclass(frozen=True)
class Equal:
    """What ``payer`` reaches at step ``mark`` with a rate of its own, and uniform with as many rows.

    Of the two uniform runs the first did better on the tuning seeds; it is the one that methods are compared with.
    """

    payer: str
    mark: int
    own: tuple[Job, Outcomes]
    uniform: tuple[tuple[Job, Outcomes], tuple[Job, Outcomes]]


def measure(runs: Runs, plan: Plan, noisy: bool, rows: Table) -> list[Equal]:
    """Everyone at their best, at the first and at the last step of the methods."""
    job = Job(UNIFORM, noisy, (), plan.rows, CANDIDATES, RATE, decay=True)
    tried: dict[tuple[str, int, str], list[Job]] = {}
    for payer, mark in itertools.product((MAX_LOSS, RHO), _ends(plan.marks)):
        cost = rows[payer][0].rows[mark]
        tried[payer, mark, "own"] = [replace(job, method=payer, rate=rate, marks=(mark,)) for rate in plan.rates]
        for name, batch in (("small", KEPT), ("large", CANDIDATES)):
            marks = (math.ceil(cost / batch),)
            tried[payer, mark, name] = [replace(job, batch=batch, rate=rate, marks=marks) for rate in plan.rates]
    tuning = runs(run, itertools.chain.from_iterable(tried.values()), plan.tuning)
    accuracy = {one: Spread.at(outcomes, one.marks[0]).median for one, outcomes in tuning.items()}
    best = {key: max(several, key=accuracy.__getitem__) for key, several in tried.items()}
    found = runs(run, best.values(), plan.seeds)

    def contest(payer: str, mark: int) -> Equal:
        own, small, large = (best[payer, mark, name] for name in ("own", "small", "large"))
        first, second = sorted((small, large), key=accuracy.__getitem__, reverse=True)
        return Equal(payer, mark, (own, found[own]), ((first, found[first]), (second, found[second])))

    return [contest(payer, mark) for payer, mark, name in tried if name == "own"]


def _ends(marks: Sequence[int]) -> tuple[int, int]:
    return marks[0], marks[-1]


def show(title: str, rows: Table, found: Sequence[Equal]) -> None:
    """Row by row: below uniform, the methods that cost as much."""
    for mark in _ends(list(rows[UNIFORM][0].figures)):
        body, leads = [], {}
        for one in (one for one in found if one.mark == mark):
            for job, outcomes in one.uniform:
                body.append(_cells(f"uniform, batches of {job.batch}, rate {job.rate:g}", outcomes, job.marks[0], ""))
            for name, outcomes in _contestants(one, rows):
                leads[name] = lead(outcomes, mark, one.uniform[0][1])
                body.append(_cells(f"  {name}", outcomes, mark, f"{leads[name]:+.3f}"))
        header = ["", "rows", "seconds", "accuracy", "lead over the first uniform above"]
        print_table(f"T-BATCH, {title}: at equal rows, those of the methods by step {mark}", header, body)
        ahead = [method for method, spread in leads.items() if spread.low > 0]
        behind = [method for method, spread in leads.items() if spread.high < 0]
        print(f"  Ahead of uniform with as many rows on every seed: {'; '.join(ahead) or 'none'}.")
        print(f"  Behind it on every seed: {'all' if len(behind) == len(leads) else '; '.join(behind) or 'none'}.")


def _contestants(one: Equal, rows: Table) -> Iterator[tuple[str, Outcomes]]:
    for method, payer in PAYERS.items():
        if payer == one.payer:
            yield method, rows[method]
    yield f"{one.payer}, own rate {one.own[0].rate:g}", one.own[1]


def _cells(name: str, outcomes: Outcomes, mark: int, ahead: str) -> list[str]:
    seconds = statistics.median(outcome.seconds[mark] for outcome in outcomes)
    accuracy = f"{Spread.at(outcomes, mark):.3f}"
    return [name, f"{outcomes[0].rows[mark] / 1000:.1f}k", f"{seconds:.2f}", accuracy, ahead]


def figures(found: Sequence[Equal]) -> list[dict[str, Any]]:
    """For the JSON file."""
    return [
        {
            "method": one.payer,
            "step": one.mark,
            "own": {"rate": one.own[0].rate, **plain(one.own[1])},
            "uniform": [{"batch": job.batch, "rate": job.rate, **plain(outcomes)} for job, outcomes in one.uniform],
        }
        for one in found
    ]
