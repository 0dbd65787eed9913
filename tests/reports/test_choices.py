from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.reports.choices import (
    chosen_by_difficulty,
    difficulty,
    overlaps,
    times_chosen,
    weight_by_difficulty,
)
from lightning_select.reports.shares import shares_of
from tests.reports import made_up


@given(st.lists(st.integers(0, 30) | st.integers(0, 10_000), min_size=1, max_size=200))
def test_every_row_is_in_one_bin(times):
    bins = times_chosen(np.array(times))
    assert (bins[0].low, bins[0].high) == (0, 0)
    for before, after in pairwise(bins):
        assert after.low == before.high + 1
    assert bins[-1].high >= max(times)
    assert len(bins) <= 26
    for one in bins:
        assert one.rows == sum(one.low <= value <= one.high for value in times)


def test_few_counts_have_a_bar_each_and_a_long_tail_is_one_bar():
    assert [(one.low, one.high, one.rows) for one in times_chosen(np.array([0, 2, 2]))] == [
        (0, 0, 1),
        (1, 1, 0),
        (2, 2, 2),
    ]
    tail = times_chosen(np.append(np.arange(1000) % 10, 5000))
    assert tail[-1].high == 5000
    assert tail[-1].low <= 10


@given(st.lists(st.floats(0, 9) | st.just(math.nan) | st.sampled_from([0.5, 1.0]), max_size=60))
def test_groups_of_difficulty(losses):
    groups = difficulty(np.array(losses, np.float32)).tolist()
    known = [(loss, row) for row, loss in enumerate(np.array(losses, np.float32).tolist()) if not math.isnan(loss)]
    many = min(10, len(known))
    expected = [-1] * len(losses)
    for place, (_, row) in enumerate(sorted(known)):
        expected[row] = place * many // len(known)
    assert groups == expected


@pytest.mark.parametrize("rows", [1, 7, 203])
def test_shares_chosen_and_mean_weights_by_difficulty(rows):
    table = made_up.table(rows, 4)
    weight = np.where(table.chosen > 0, table.loss, np.nan).astype(np.float32)
    table = dataclasses.replace(table, weight=weight, loss=np.where(table.label == 3, np.nan, table.loss))
    groups = difficulty(table.loss)
    found, weights = chosen_by_difficulty(table, groups), weight_by_difficulty(table, groups)
    for group in range(int(groups.max()) + 1):
        members = [row for row in range(rows) if groups[row] == group]
        for period in range(4):
            chosen = sum(bool(table.chosen_in[row, period]) for row in members)
            assert found[group, period] == pytest.approx(chosen / len(members))
        known = [float(weight[row]) for row in members if not math.isnan(weight[row])]
        assert weights[group] == pytest.approx(sum(known) / len(known) if known else math.nan, nan_ok=True)


def test_overlaps_against_sets():
    table = made_up.table(300, 5)
    offered = table.offered.copy()
    offered[(table.chosen == 0)] = 0
    table = dataclasses.replace(table, offered=offered)
    sets = [{row for row in range(300) if table.chosen_in[row, period]} for period in range(5)]
    found = overlaps(table)
    assert len(found) == 4
    for place, one in enumerate(found):
        assert (one.first, one.second) == table.periods[place : place + 2]
        assert one.chosen == len(sets[place])
        assert one.again == len(sets[place] & sets[place + 1])
        assert one.expected == pytest.approx(len(sets[place + 1]) / sum(many > 0 for many in offered))


def test_independent_draws_overlap_as_expected():
    (one,) = overlaps(_independent())
    assert one.again / one.chosen == pytest.approx(one.expected, abs=0.005)


def _independent():
    table = made_up.unknown(200_000, periods=2, times=1)
    return dataclasses.replace(table, chosen_in=(np.random.default_rng(0).random((200_000, 2)) < 0.2).astype(np.uint8))


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_shares_of_classes(classes):
    table = made_up.table(150, 4, classes=classes)
    labels = np.where(np.arange(150) % 7 == 0, -1, table.label * 10**12)
    found = shares_of(labels, table.offered, table.chosen, str)
    known = [row for row in range(150) if labels[row] >= 0]
    assert [one.name for one in found] == sorted({str(labels[row]) for row in known}, key=int)
    for one in found:
        mine = [row for row in known if str(labels[row]) == one.name]
        assert one.rows == len(mine)
        assert one.of_rows == pytest.approx(len(mine) / len(known))
        assert one.of_offered == pytest.approx(sum(table.offered[mine]) / sum(table.offered[known]))
        assert one.of_kept == pytest.approx(sum(table.chosen[mine]) / sum(table.chosen[known]))
    assert sum(one.of_kept for one in found) == pytest.approx(1)


def test_nothing_has_no_shares():
    assert shares_of(np.full(5, -1), np.ones(5, int), np.ones(5, int), str) == ()
