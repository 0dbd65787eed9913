from __future__ import annotations

import math

import pytest

from lightning_select.reports.wording import count, cut, number, rows_of, seconds, share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (-2.5, "-2.5"),
        (999.9, "1,000"),
        (1234.5, "1,230"),
        (1e-9, "1e-09"),
        (3e38, "3e+38"),
        (math.nan, "unknown"),
        (-math.inf, "unknown"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "100"),
        (0.5, "50.0"),
        (0.99999, "over 99.9"),
        (0.0004, "0.04"),
        (1e-7, "under 0.001"),
        (1.25, "125.0"),
    ],
)
def test_shares(value, text):
    assert share(value) == f"{text}\u00a0%"


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5 s"), (59.7, "59.7 s"), (61, "1 min 1 s"), (7290, "2 h 1 min")])
def test_durations(value, text):
    assert seconds(value).replace("\u00a0", " ") == text


def test_the_rest():
    assert share(math.nan) == seconds(math.nan) == "unknown"
    assert (rows_of(1), rows_of(2), count(1e4)) == ("1 row", "2 rows", "10,000")
    assert (cut("abc", 3), cut("abcd", 3)) == ("abc", "ab…")
