from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.reports.periods import MOST
from lightning_select.reports.row_record import RowRecord, StepRows

NAMES = StepRows.NAMES
NAN = math.nan


def step(ids: list[int], **columns: list[float]) -> StepRows:
    values = torch.full((len(ids), len(NAMES)), NAN)
    for name, column in columns.items():
        values[:, NAMES.index(name)] = torch.tensor(column)
    return StepRows(torch.tensor(ids), values)


class Slow:
    """The record, one row and one visit at a time, from the definitions of `RowTable`."""

    def __init__(self, rows: int) -> None:
        self.visits: list[list[dict[str, float]]] = [[] for _ in range(rows)]

    def update(self, ids: list[int], columns: dict[str, list[float]], moment: int) -> None:
        for place, row in enumerate(ids):
            if 0 <= row < len(self.visits):
                values = {name: columns[name][place] for name in columns}
                self.visits[row].append({**values, "moment": moment})

    def mean(self, row: int, name: str) -> float:
        found = [visit[name] for visit in self.visits[row] if math.isfinite(visit[name])]
        return sum(found) / len(found) if found else NAN

    def latest(self, row: int, name: str, unknown: float) -> float:
        found = [visit[name] for visit in self.visits[row] if math.isfinite(visit[name])]
        return found[-1] if found else unknown

    def forgettings(self, row: int) -> int:
        right = [visit["agreed"] for visit in self.visits[row] if math.isfinite(visit["margin"])]
        return sum(before == 1 and after == 0 for before, after in itertools.pairwise(right))

    def learnt_at(self, row: int) -> float:
        since = -1.0
        for visit in self.visits[row]:
            if math.isfinite(visit["margin"]):
                since = -1.0 if visit["agreed"] == 0 else visit["moment"] if since < 0 else since
        return since


def random_step(rng: random.Random, rows: int) -> tuple[list[int], dict[str, list[float]]]:
    ids = rng.sample(range(-1, rows), k=5)

    def maybe(value: float) -> float:
        return value if rng.random() < 0.8 else rng.choice([NAN, math.inf])

    columns: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in ids:
        chosen = rng.randint(0, 2)
        margin = maybe(rng.gauss(0, 2))
        columns["chosen"].append(chosen)
        columns["weight"].append(chosen * rng.random())
        columns["loss"].append(maybe(rng.random()))
        columns["score"].append(maybe(rng.random()))
        columns["margin"].append(margin)
        for name in ("confidence", "agreed", "label", "suggestion"):
            value = float(margin > 0) if name == "agreed" else float(rng.randint(0, 3))
            columns[name].append(value if math.isfinite(margin) else NAN)
        columns["group"].append(rng.randint(0, 1))
    return ids, columns


@pytest.mark.parametrize("seed", range(5))
def test_the_table_is_what_a_loop_over_visits_says(seed: int) -> None:
    rng, rows = random.Random(seed), 9
    record, slow = RowRecord(rows), Slow(rows)
    for moment in range(30):
        ids, columns = random_step(rng, rows)
        record.update(step(ids, **columns), moment)
        slow.update(ids, columns, moment)
    table = record.table()
    assert table.periods == tuple(f"epoch {number}" for number in range(1, 31))
    for row in range(rows):
        assert table.offered[row] == len(slow.visits[row])
        assert table.chosen[row] == sum(visit["chosen"] for visit in slow.visits[row])
        for name, column in (("loss", table.loss), ("score", table.score), ("margin", table.margin)):
            assert column[row] == pytest.approx(slow.mean(row, name), rel=1e-4, abs=1e-5, nan_ok=True)
        assert table.agreement[row] == pytest.approx(slow.mean(row, "agreed"), nan_ok=True)
        assert table.confidence[row] == pytest.approx(slow.mean(row, "confidence"), nan_ok=True)
        weight = sum(visit["weight"] for visit in slow.visits[row])
        assert table.weight[row] == pytest.approx(weight / table.chosen[row], rel=1e-4)
        assert table.last_loss[row] == pytest.approx(slow.latest(row, "loss", NAN), nan_ok=True)
        assert table.label[row] == slow.latest(row, "label", -1)
        assert table.suggestion[row] == slow.latest(row, "suggestion", -1)
        assert table.group[row] == slow.latest(row, "group", -1)
        assert table.forgettings[row] == slow.forgettings(row)
        assert table.learnt_at[row] == slow.learnt_at(row)
        for period in range(30):
            expected = sum(visit["chosen"] for visit in slow.visits[row] if visit["moment"] == period)
            assert table.chosen_in[row, period] == expected


@pytest.mark.parametrize("moments", [33, 100, 1000])
def test_long_runs_have_wider_periods(moments: int) -> None:
    record = RowRecord(2)
    for moment in range(moments):
        record.update(step([0], chosen=[1.0]), moment)
    table = record.table()
    width = 1
    while math.ceil(moments / width) > MOST:
        width *= 2
    assert len(table.periods) == math.ceil(moments / width)
    assert table.chosen_in[0].tolist() == [min(width, moments - first) for first in range(0, moments, width)]
    assert table.chosen_in[1].sum() == 0


def test_choices_of_a_period_stop_at_what_a_byte_holds() -> None:
    record = RowRecord(1)
    for _ in range(300):
        record.update(step([0], chosen=[1.0]), 0)
    table = record.table()
    assert table.chosen_in.tolist() == [[255]]
    assert table.chosen.tolist() == [300]


def test_rows_that_nobody_saw_are_unknown() -> None:
    table = RowRecord(2).table(("cat",), ("g",))
    assert table.offered.tolist() == [0, 0]
    assert np.isnan(table.loss).all()
    assert np.isnan(table.margin).all()
    assert table.label.tolist() == [-1, -1]
    assert table.learnt_at.tolist() == [-1, -1]
    assert table.class_name(0) == "cat"
    assert table.class_name(1) == "1"
    assert table.class_name(-1) == "unknown"
    assert table.group_name(0) == "g"


def test_a_state_goes_on_as_if_nothing_had_happened() -> None:
    rng = random.Random(0)
    steps = [random_step(rng, 6) for _ in range(50)]
    whole, first, second = RowRecord(6), RowRecord(6), RowRecord(6)
    for moment, (ids, columns) in enumerate(steps):
        whole.update(step(ids, **columns), moment)
        (first if moment < 37 else second).update(step(ids, **columns), moment)
        if moment == 36:
            second.load_state_dict(first.state_dict())
    for name, column in whole.table().columns().items():
        np.testing.assert_array_equal(column, second.table().columns()[name])
    np.testing.assert_array_equal(whole.table().chosen_in, second.table().chosen_in)


def test_a_state_of_another_dataset_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"RowRecord.rows must be the length of the dataset \(3\), got a state"
    ):
        RowRecord(3).load_state_dict(RowRecord(4).state_dict())


@pytest.mark.parametrize("rows", [0, -1, 2.0, True])
def test_a_length_that_is_none_is_refused(rows: object) -> None:
    with pytest.raises(ArgumentError, match="RowRecord.rows must be a whole number, at least 1"):
        RowRecord(rows)  # type: ignore[arg-type]


def test_a_loss_that_is_finite_and_whose_sum_is_not_can_be_saved() -> None:
    record, again = RowRecord(2), RowRecord(2)
    for moment in range(3):
        record.update(step([0, 1], chosen=[1.0, 1.0], loss=[3e38, -3e38]), moment)
    again.load_state_dict(record.state_dict())
    for one in (record, again):
        assert one.table().loss.tolist() == pytest.approx([3.4028e38 / 3, -3.4028e38 / 3], rel=1e-4)
