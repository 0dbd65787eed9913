"""No trap is missing, each is held by tests that exist, and the page says what the table says."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.traps.page import PAGE, page
from tests.traps.table import TRAPS
from tests.traps.trap import Trap

ROOT = Path(__file__).parents[2]


@cache
def names_in(path: str) -> frozenset[str]:
    """Tests of a file, as pytest names them."""
    names: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            names |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return frozenset(names)


def test_none_is_missing() -> None:
    numbers = [trap.number for trap in TRAPS]
    assert len(set(numbers)) == len(numbers)
    assert {str(number) for number in range(1, 55)} <= set(numbers)


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.number)
def test_each_is_held_by_tests_that_exist(trap: Trap) -> None:
    assert trap.tests or trap.reason
    for test in trap.tests:
        path, _, name = test.partition("::")
        assert name.rpartition("::")[2].startswith("test_"), test
        assert name in names_in(path), test


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.number)
def test_each_is_told_in_sentences(trap: Trap) -> None:
    for told in (trap.what, trap.stance):
        assert told.endswith((".", ".)"))
        assert "|" not in told
        assert "\n" not in told


@pytest.mark.repository
def test_the_page_is_that_of_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.traps.page"
