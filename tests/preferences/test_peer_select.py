from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.preferences.peer_select import PeerSelect, peer_select

MARGINS = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30)


def reference(margins: list[float], count: int) -> list[int]:
    """Take the surest pair that is left, the first one of equals, again and again."""
    left, chosen = list(range(len(margins))), []
    for _ in range(count):
        best = left[0]
        for row in left:
            if margins[row] > margins[best]:
                best = row
        left.remove(best)
        chosen.append(best)
    return sorted(chosen)


@given(MARGINS, st.integers(0, 100))
def test_keeps_the_surest_rounded_up(margins, percent):
    keep = percent / 100
    count = max(1, math.ceil(Fraction(percent, 100) * len(margins)))
    assert peer_select(torch.tensor(margins), keep).tolist() == reference(margins, count)


@pytest.mark.parametrize(
    ("rows", "keep", "count"), [(100, 0.07, 7), (100, 0.29, 29), (10, 0.6, 6), (7, 0.6, 5), (3, 0.0, 1)]
)
def test_a_share_that_is_no_exact_float_is_not_rounded_up_twice(rows, keep, count):
    assert len(peer_select(torch.randn(rows), keep)) == count


@given(st.permutations(range(6)))
def test_permuting_the_rows_permutes_the_choice(order):
    margins = torch.tensor([0.4, 2.0, -1.0, 0.1, 7.0, 0.3])
    moved = peer_select(margins[list(order)], 0.5)
    assert sorted(order[row] for row in moved.tolist()) == peer_select(margins, 0.5).tolist()


@pytest.mark.parametrize(
    ("margins", "keep", "expected"),
    [
        ([1.0], 0.5, [0]),
        ([1.0, 1.0, 1.0, 1.0], 0.5, [0, 1]),
        ([math.nan, -9.0, 1.0], 0.5, [1, 2]),
        ([math.nan, math.nan], 0.5, [0]),
        ([-math.inf, math.inf, 3e38], 0.6, [1, 2]),
        ([-math.inf, math.nan, 0.0], 0.3, [2]),
    ],
)
def test_ties_and_what_is_not_finite(margins, keep, expected):
    assert peer_select(torch.tensor(margins), keep).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_margins_of_any_dtype(dtype):
    index = peer_select(torch.tensor([0.5, 2.0, 1.0], dtype=dtype), 0.5)
    assert index.dtype == torch.int64
    assert index.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("noise", "warm_up", "rates"),
    [
        (0.4, 1.0, [1.0, 0.6, 0.6, 0.6]),
        (0.4, 4.0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.6]),
        (0.4, 0.0, [0.6, 0.6]),
        (0.0, 1.0, [1.0, 1.0, 1.0]),
        (0.5, 0.5, [1.0, 0.5]),
    ],
)
def test_the_keep_rate_falls_and_stays(noise, warm_up, rates):
    select = PeerSelect(noise, warm_up)
    assert [select.keep_rate(epoch) for epoch in range(len(rates))] == pytest.approx(rates)
    for epoch, rate in enumerate(rates):
        assert len(select(torch.randn(20), epoch)) == math.ceil(rate * 20 - 1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"noise": 1.0}, r"PeerSelect.noise must be in \[0, 1\), got 1.0"),
        ({"noise": -0.1}, "PeerSelect.noise must be"),
        ({"noise": "0.2"}, "PeerSelect.noise must be .* got '0.2'"),
        ({"noise": True}, "PeerSelect.noise must be .* got True"),
        ({"noise": math.nan}, "PeerSelect.noise must be"),
        ({"warm_up": -1}, "PeerSelect.warm_up must be a finite number of epochs, at least 0, got -1"),
        ({"warm_up": math.inf}, "PeerSelect.warm_up must be"),
    ],
)
def test_what_is_out_of_range_is_told(given_, told):
    with pytest.raises(ArgumentError, match=told):
        PeerSelect(**given_)
