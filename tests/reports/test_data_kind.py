from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lightning_select.reports.data_kind import data_kind
from lightning_select.reports.decision_table import DECISIONS, decide
from lightning_select.reports.likely_mislabelled import likely_mislabelled
from lightning_select.reports.row_record import RowRecord
from tests.reports.test_likely_mislabelled import table


def periods(rows: int, count: int) -> dict[str, object]:
    return {"chosen_in": np.ones((rows, count), np.uint8)}


def made(rows: int, count: int, **columns: object):
    import dataclasses

    found = table(rows, offered=[1] * rows, **columns)
    names = tuple(f"epoch {number + 1}" for number in range(count))
    return dataclasses.replace(found, chosen_in=np.ones((rows, count), np.uint8), periods=names)


def test_shares_by_hand() -> None:
    # Learnt early and kept; learnt early and once forgotten; learnt late; not learnt; seen once; never read.
    known = made(
        6,
        10,
        learnt_at=[1, 1, 2, -1, 0, -1],
        forgettings=[0, 1, 0, 3, 0, 0],
        visits=[10, 10, 10, 10, 1, 0],
        label=[0, 0, 0, 0, 1, 1],
    )
    kind = data_kind(known, None)
    assert kind.rows == 6
    assert kind.early == 2
    assert kind.redundant_share == 1 / 5
    assert kind.unlearnt_share == 1 / 5
    assert kind.imbalance == 2.0
    assert kind.wrong_share is None


def test_two_periods_say_nothing_of_redundancy() -> None:
    assert data_kind(made(2, 2, visits=[2, 2], learnt_at=[0, 0]), None).redundant_share is None


def test_nothing_known_nothing_said() -> None:
    kind = data_kind(RowRecord(3).table(), None)
    assert (kind.rows, kind.wrong_share, kind.redundant_share, kind.unlearnt_share, kind.imbalance) == (
        *(0, None, None, None),
        None,
    )
    assert decide(kind) == [DECISIONS[-1]]


def test_losses_alone_tell_no_wrong_labels() -> None:
    known = made(3, 3, loss=[1.0, 2.0, 3.0])
    assert data_kind(known, likely_mislabelled(known)).wrong_share is None


def test_each_kind_has_its_line() -> None:
    import dataclasses

    plain = data_kind(RowRecord(3).table(), None)
    plain = dataclasses.replace(plain, rows=100)
    noisy = dataclasses.replace(plain, wrong_share=0.1, imbalance=50.0)
    assert [one.when for one in decide(noisy)] == ["wrong labels"]
    rare = dataclasses.replace(plain, wrong_share=0.0, imbalance=50.0, redundant_share=0.9)
    assert [one.when for one in decide(rare)] == ["redundant rows", "rare classes, right labels"]
    assert decide(dataclasses.replace(rare, rows=29)) == [DECISIONS[-1]]
    for decision in DECISIONS:
        assert decision.reason


def test_one_visit_says_nothing_of_redundancy() -> None:
    assert data_kind(made(2, 10, visits=[1, 1], learnt_at=[0, 0]), None).redundant_share is None


@pytest.mark.repository
def test_the_readme_shows_the_same_table() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    if not readme.exists():
        pytest.skip("an installed package has no README beside its tests")
    rows = {cells[1].strip(): line for line in readme.read_text().splitlines() if len(cells := line.split("|")) == 7}
    for decision in DECISIONS:
        line = rows[decision.when]
        assert decision.first in line
        found = re.findall(r"`(\w+)`", line.split("|")[3]), re.findall(r"`(\w+)`", line.split("|")[4])
        assert found == (list(decision.methods), list(decision.avoid))
        for figure in re.findall(r"\.\d+|\w+\.py", decision.reason):
            assert figure in line.split("|")[5]
