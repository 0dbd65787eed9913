"""The page says what the table says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.expected import ALL, REMARKS
from tests.support.page import PAGE, page, versions

pytestmark = pytest.mark.repository

LINE = "on torch [^,]+, Lightning [^ ]+ and Python [0-9.]+[0-9]"


def test_the_page_is_what_would_be_written() -> None:
    written = PAGE.read_text(encoding="utf-8")
    (told,) = re.findall(LINE, written)
    assert written == page(told.removeprefix("on ")), "python -m tests.support.page"
    assert re.fullmatch(LINE, f"on {versions()}")


def test_every_feature_is_on_it_and_no_cell_is_open() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert all(feature.name in written for feature in ALL)
    assert set(REMARKS) <= {feature.name for feature in ALL}
    assert "unknown" not in written.lower()
    for line in written.splitlines():
        if line.startswith("| "):
            assert line.count("|") == 9
            assert all(part.strip() for part in line.strip("| ").split("|")[1:])


def test_the_tests_that_the_page_names_are_there() -> None:
    folder = Path(__file__).parent
    assert (folder / "test_fabric.py").exists()
    assert (folder / "test_cells.py").exists()
