"""Ten thousand cases asked for are ten thousand tried."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.fuzz import budget
from tests.fuzz.damage import in_bounds


def test_shares_add_up() -> None:
    for file in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.fuzz.{file.stem}")
    assert len(budget.SHARES) >= 12
    assert 1.0 <= sum(budget.SHARES.values()) < 1.2


def test_a_case_is_counted_each_time_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "ASKED", 500)
    assert (budget.cases(0.1, 7), budget.cases(1e-9, 7)) == (50, 1)
    monkeypatch.setattr(budget, "ASKED", 0)
    assert budget.cases(0.1, 7) == 7
    monkeypatch.setattr(budget, "TRIED", budget.collections.Counter())
    monkeypatch.setattr(budget, "SHARES", {})
    tried = budget.fuzz(0.1, quick=7)(lambda: None)
    tried()
    tried()
    assert list(budget.TRIED.values()) == [2]


def forever() -> None:
    while True:
        pass


def test_an_endless_loop_and_a_huge_allocation_are_noticed() -> None:
    with pytest.raises(TimeoutError, match="more than 0.1 s"), in_bounds(0.1):
        forever()
    with pytest.raises(MemoryError), in_bounds(10.0, gigabytes=0.5):
        bytearray(2**31)
