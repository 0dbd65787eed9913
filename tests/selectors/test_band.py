from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.protocols import Selector
from lightning_select.selectors.band import Band, band
from tests.selectors.cases import choose, context_of, host_reads, is_well_formed

RATES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, None]), min_size=1, max_size=9)
"""Attempts out of eight that were right; None is a row that could not be scored."""
BANDS = st.sampled_from([(2, 6), (0, 8), (1, 5), (4, 7), (0, 1)])


def reference(rates: list[int | None], count: int, low: int, high: int) -> list[int]:
    """In whole numbers: those in the band, then those outside, then the unscored, each from the middle outwards."""

    def rank(row: int) -> tuple[int, int, int]:
        rate = rates[row]
        if rate is None:
            return 2, 0, row
        return int(not low <= rate <= high), abs(2 * rate - low - high), row

    return sorted(sorted(range(len(rates)), key=rank)[:count])


@given(RATES, BANDS, st.data())
def test_the_band_first_then_what_is_nearest(rates, limits, data):
    count = data.draw(st.integers(1, len(rates)))
    scores = [-math.inf if rate is None else rate / 8 for rate in rates]
    low, high = (limit / 8 for limit in limits)
    selection = Band(low, high)(torch.tensor(scores), count, context_of())
    assert selection.index.tolist() == reference(rates, count, *limits)
    assert is_well_formed(selection, scores, count)
    assert selection.weight is None


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([0.0, 0.3, 0.5, 0.7, 1.0], 3, [1, 2, 3]),
        ([0.3, 0.45, 0.7, 0.5], 2, [1, 3]),
        ([0.0, 0.5, 0.9, 1.0], 2, [1, 2]),
        ([0.6, 0.4], 1, [0]),
        ([0.4, 0.6], 1, [0]),
        ([1.0, 0.0], 1, [0]),
        ([0.5, 0.5, 0.5], 2, [0, 1]),
        ([1.0, 1.0], 1, [0]),
        ([0.2], 1, [0]),
        ([-math.inf, 0.0, -math.inf], 2, [0, 1]),
        ([math.nan, 0.0, math.inf], 1, [1]),
        ([-math.inf, -math.inf], 1, [0]),
    ],
)
def test_ties_and_other_corners(scores, count, expected):
    assert choose(Band(), scores, count) == expected


def test_the_ends_of_the_band_belong_to_it():
    assert band(torch.tensor([0.9, 0.05, 0.1]), 2, low=0.1, high=0.9).tolist() == [0, 2]


@given(st.permutations(range(6)))
def test_permuting_the_rows_permutes_the_choice(order):
    scores = torch.tensor([0.1, 0.95, 0.45, 0.6, 0.0, 0.7])
    rows = [order[row] for row in choose(Band(), scores[list(order)], 4)]
    assert sorted(rows) == choose(Band(), scores, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_of_any_dtype(dtype):
    assert band(torch.tensor([0.0, 0.25, 1.0, 0.75], dtype=dtype), 2, 0.25, 0.75).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("low", "high", "rule"),
    [
        (-0.1, 0.5, r"Band.low must be a solve rate in \[0, 1\], got -0.1"),
        (0.5, 1.1, r"Band.high must be a solve rate in \[0, 1\], got 1.1"),
        (math.nan, 0.5, r"Band.low must be a solve rate in \[0, 1\], got nan"),
        (0.25, "1", r"Band.high must be a solve rate in \[0, 1\], got '1'"),
        (0.5, 0.5, r"Band.low must be below Band.high \(0.5\), got 0.5"),
        (0.75, 0.25, r"Band.low must be below Band.high \(0.25\), got 0.75"),
    ],
)
def test_the_band_is_a_range_of_solve_rates(low, high, rule, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=rule):
        Band(low, high)


def test_reads_nothing_back_to_the_host():
    assert not host_reads(Band(), torch.rand(8), 3, context_of())


def test_is_a_selector():
    assert isinstance(Band(), Selector)
    assert Band().needs == frozenset()
    assert not Band().with_replacement
