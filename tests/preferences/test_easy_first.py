from __future__ import annotations

import math

import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.preferences.easy_first import EasyFirst, easy_first


@pytest.mark.parametrize(
    ("margins", "share", "pool"),
    [
        ([0.1, 3.0, -2.0, 1.0], 0.5, [1, 3]),
        ([0.1, 3.0, -2.0, 1.0], 0.51, [1, 3, 0]),
        ([0.1, math.nan, 5.0], 0.6, [1, 2]),
        ([1.0, 1.0, 1.0], 0.6, [0, 1]),
        ([math.nan, math.nan], 0.01, [0]),
        ([-math.inf, math.inf, 0.0], 1.0, [1, 2, 0]),
        ([7.0], 0.1, [0]),
    ],
)
def test_the_easiest_come_first_and_unknown_ones_before_them(margins, share, pool):
    assert easy_first(torch.tensor(margins), share).tolist() == pool


def test_the_share_grows_to_all():
    curriculum = EasyFirst(begin=0.4, epochs=3)
    assert [curriculum.share(epoch) for epoch in range(5)] == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0])
    margins = torch.randn(10)
    assert [len(curriculum(margins, epoch)) for epoch in range(4)] == [4, 6, 8, 10]


def test_all_pairs_take_part_while_nothing_is_known():
    assert EasyFirst(begin=0.1)(torch.full((6,), math.nan), 0).tolist() == list(range(6))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"begin": 0.0}, r"EasyFirst.begin must be in \(0, 1\], got 0.0"),
        ({"begin": 1.1}, "EasyFirst.begin must be"),
        ({"begin": "a"}, "EasyFirst.begin must be .* got 'a'"),
        ({"epochs": 0}, "EasyFirst.epochs must be a number of epochs above 0, got 0"),
        ({"epochs": math.nan}, "EasyFirst.epochs must be"),
        ({"stages": 0}, "EasyFirst.stages must be a whole number, at least 1, got 0"),
        ({"stages": 1.5}, "EasyFirst.stages must be"),
    ],
)
def test_what_is_out_of_range_is_told(given, told):
    with pytest.raises(ArgumentError, match=told):
        EasyFirst(**given)
