"""Batches of any size, the last one odd, with any share or number kept and any schedule: as many rows as promised."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select import Anneal, BatchSelection, LossReweighting, Schedule
from lightning_select.errors import ArgumentError
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.fitting import fit, loader, same, weights_of
from tests.fuzz.budget import fuzz
from tests.modules import Classifier

GOOD = st.one_of(st.integers(1, 4), st.floats(0.01, 1.0))
BAD = st.sampled_from([0, -1, 0.0, 1.5, math.nan, math.inf, True, 99])
POINTS = st.one_of(st.integers(0, 7), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
ODD_POINTS = st.sampled_from([-2, 1.5, math.nan, None, True])


class Counting(Classifier):
    """Notes how many rows each step trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def on_train_batch_start(self, batch, batch_idx):
        self.sizes.append(len(batch[0]))


@st.composite
def arguments(draw: Any) -> dict[str, Any]:
    """Mostly right ones."""
    good = draw(st.integers(0, 4)) > 0
    number, point = (GOOD, POINTS) if good else (st.one_of(GOOD, BAD), st.one_of(POINTS, ODD_POINTS))
    keep: Any = draw(number)
    if draw(st.integers(0, 3)) == 0:
        share = st.floats(0.01, 1.0) if good else number
        keep = ("anneal", draw(share), draw(share), draw(point), draw(st.sampled_from(["linear", "cosine"])))
    schedule = st.tuples(point, st.one_of(st.none(), point), st.integers(1 if good else 0, 3))
    return {
        "keep": keep,
        "rows": draw(st.integers(1, 23)),
        "size": draw(st.integers(1, 9)),
        "schedule": draw(st.one_of(st.none(), schedule)),
        "drop_last": draw(st.booleans()),
    }


def expected(case: dict[str, Any], keep: Any, schedule: Schedule | None, epochs: int) -> list[int]:
    """How many rows each step trains on, by the rules of the docstrings."""
    full, rest = divmod(case["rows"], case["size"])
    sizes = ([case["size"]] * full + ([rest] if rest and not case["drop_last"] else [])) * epochs
    total, counts = len(sizes), []
    for step, rows in enumerate(sizes):
        start, stop = (
            None if point is None else point if isinstance(point, int) else round(point * total)
            for point in ((0, None) if schedule is None else (schedule.start, schedule.stop))
        )
        every = 1 if schedule is None else schedule.every
        on = step >= start and (stop is None or step < stop) and (step - start) % every == 0
        number = keep
        if isinstance(keep, Anneal):
            first, last = (p if isinstance(p, int) else round(p * total) for p in (keep.start, keep.stop))
            share = min(max((step - first) / max(last - first, 1), 0.0), 1.0)
            share = (1 - math.cos(math.pi * share)) / 2 if keep.shape == "cosine" else share
            number = keep.begin + (keep.end - keep.begin) * share
        kept = number if isinstance(number, int) else math.floor(number * rows + 0.5)
        counts.append(min(max(kept, 1), rows) if on else rows)
    return counts


@given(arguments())
@fuzz(0.04, quick=80)
def test_each_step_trains_on_as_many_rows_as_promised(case: dict[str, Any]) -> None:
    module = Counting()
    try:
        keep = case["keep"]
        if isinstance(keep, tuple):
            keep = Anneal(begin=keep[1], end=keep[2], stop=1.0 if keep[3] is None else keep[3], shape=keep[4])
        schedule = None
        if case["schedule"] is not None:
            start, stop, every = case["schedule"]
            schedule = Schedule(start=0 if start is None else start, stop=stop, every=every)
        callback = BatchSelection(Loss(), TopK(), keep=keep, schedule=schedule)
        data = loader(rows=case["rows"], size=case["size"], drop_last=case["drop_last"])
        if not len(data):
            return
        fit(module, callback, data=data)
    except ArgumentError:
        return
    assert module.sizes == expected(case, keep, schedule, epochs=2)


@given(st.integers(1, 17), st.integers(1, 8), st.booleans(), st.integers(1, 3))
@fuzz(0.02, quick=30)
def test_weights_that_are_all_alike_change_nothing_at_any_size(
    rows: int, size: int, drop: bool, accumulate: int
) -> None:
    data = loader(rows=rows, size=size, drop_last=drop, shuffle=False)
    if not len(data):
        return
    settings = {"data": data, "accumulate_grad_batches": accumulate}
    plain = weights_of(fit(Classifier, **settings))
    assert same(plain, weights_of(fit(Classifier, LossReweighting(torch.ones_like), **settings)))
    fit(Classifier, LossReweighting(DynamicLoss()), **settings)  # an odd size is no error
