from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from lightning_select.reports.likely_mislabelled import likely_mislabelled, low_group
from lightning_select.reports.row_record import RowRecord
from lightning_select.reports.row_table import RowTable

NAN = np.nan


def table(rows: int, **columns: object) -> RowTable:
    empty = RowRecord(rows).table()
    found = {name: np.asarray(value, getattr(empty, name).dtype) for name, value in columns.items()}
    return dataclasses.replace(empty, **found)


def test_rows_are_ranked_by_margin_and_ties_by_place() -> None:
    found = likely_mislabelled(table(5, margin=[1.0, -2.0, NAN, 1.0, 0.5], visits=[1, 1, 0, 1, 1]))
    assert found is not None
    assert found.ids.tolist() == [1, 4, 0, 3]
    assert found.scores.tolist() == [1.0, 0.75, 0.5, 0.25]
    assert len(found.evidence) == 4


def test_evidence_is_in_words() -> None:
    known = {"margin": [-2.5], "visits": [4], "agreement": [0.25], "forgettings": [2]}
    found = likely_mislabelled(table(1, **known))
    assert found is not None
    assert found.evidence == ("area under the margin -2.50, label agreed with at 25 % of 4 visits, forgotten 2 times",)


def test_without_margins_losses_rank_and_nothing_is_called_likely() -> None:
    found = likely_mislabelled(table(40, loss=[NAN, *range(39)]))
    assert found is not None
    assert found.ids.tolist() == list(range(39, 0, -1))
    assert found.likely is None
    assert "losses" in found.basis
    assert found.evidence[0] == "mean loss 38"


def two_classes(wrong: int, **columns: object) -> RowTable:
    """100 rows of two classes with a margin of about 2; the first ``wrong`` of them -2, the next two -.5."""
    margin = np.linspace(1.5, 2.5, 100)
    margin[:wrong] *= -1
    margin[wrong : wrong + 2] = -0.5
    label = np.arange(100) % 2
    known = {"margin": margin, "label": label, "suggestion": 1 - label, "visits": [5] * 100}
    return table(100, **(known | columns))


def test_rows_that_are_preferred_elsewhere_as_much_as_usual_are_named() -> None:
    found = likely_mislabelled(two_classes(12))
    assert found is not None
    assert found.likely == 12
    assert sorted(found.ids[:12].tolist()) == list(range(12))


def test_a_class_that_is_not_learnt_proves_nothing() -> None:
    label = np.zeros(100)
    label[12:] = 1
    found = likely_mislabelled(two_classes(12, label=label, suggestion=[2] * 100))
    assert found is not None
    assert found.likely == 0


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"visits": [2] * 100}, "visited fewer than 3 times"),
        ({"label": [-1] * 100}, "rows without a class have no wrong one"),
        ({"margin": np.linspace(-3, 1, 100)}, "has not learnt the classes"),
        ({"margin": [1.0] * 29 + [NAN] * 71}, "fewer than 30 rows"),
    ],
)
def test_a_run_that_cannot_tell_says_why(columns: dict[str, object], reason: str) -> None:
    found = likely_mislabelled(two_classes(12, **columns))
    assert found is not None
    assert found.likely is None
    assert reason in found.basis


@pytest.mark.parametrize("seed", range(5))
def test_one_group_is_not_two(seed: int) -> None:
    margins = np.random.default_rng(seed).normal(0.5, 1, 2000)
    assert low_group(np.sort(margins)) == 0


def test_nothing_known_nothing_said() -> None:
    assert likely_mislabelled(table(3)) is None


def slow_low_group(margins: list[float]) -> int:
    """Two normals by expectation maximisation, row by row; then the first row that the upper one explains better."""
    mean = sum(margins) / len(margins)
    sd = math.sqrt(sum((margin - mean) ** 2 for margin in margins) / len(margins))
    values = [(margin - mean) / sd for margin in margins]
    share, width = [0.3, 0.7], [0.5, 0.5]
    centre = [float(np.quantile(values, quantile)) for quantile in (0.1, 0.7)]

    def log_density(value: float, side: int) -> float:
        return math.log(share[side]) - math.log(width[side]) - 0.5 * ((value - centre[side]) / width[side]) ** 2

    for _ in range(200):
        low = [1 / (1 + math.exp(log_density(value, 1) - log_density(value, 0))) for value in values]
        for side in (0, 1):
            belongs = [one if side == 0 else 1 - one for one in low]
            total = sum(belongs)
            centre[side] = sum(b * v for b, v in zip(belongs, values, strict=True)) / total
            width[side] = math.sqrt(
                sum(b * (v - centre[side]) ** 2 for b, v in zip(belongs, values, strict=True)) / total
            )
            share[side] = total / len(values)
    lower = 0 if centre[0] <= centre[1] else 1
    count = 0
    for margin, value in zip(margins, values, strict=True):
        if margin >= 0 or log_density(value, lower) <= log_density(value, 1 - lower):
            break
        count += 1
    return count


@pytest.mark.parametrize(("wrong", "seed"), [(0.1, 0), (0.3, 1), (0.45, 2)])
def test_the_low_group_by_a_slow_loop(wrong: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bad = rng.random(400) < wrong
    margins = np.sort(np.where(bad, rng.normal(-3, 1, 400), rng.normal(3, 1.5, 400)))
    found = low_group(margins)
    assert abs(found - slow_low_group(margins.tolist())) <= 1
    assert found == pytest.approx(bad.sum(), abs=12)


@pytest.mark.parametrize(
    "margins",
    [[], [-1.0], [-1.0] * 50, list(np.linspace(0, 5, 50)), [-1.0, 2.0] * 10],
    ids=["none", "one", "all alike", "all right", "few"],
)
def test_no_group_where_there_is_none(margins: list[float]) -> None:
    assert low_group(np.sort(np.asarray(margins, float))) == 0


def test_extreme_margins_are_no_trouble() -> None:
    margins = np.sort(np.concatenate([np.full(100, -1e30), np.full(100, 1e30)]))
    assert low_group(margins) == 100
