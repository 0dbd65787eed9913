from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.protocols import Selector
from lightning_select.selectors.top_k import TopK, top_k
from tests.selectors.cases import SCORES, choose, context_of, host_reads, is_well_formed


def reference(scores: list[float], count: int) -> list[int]:
    """Take the largest score that is left, the first one of equals, again and again."""
    left, chosen = list(range(len(scores))), []
    for _ in range(count):
        best = left[0]
        for row in left:
            if scores[row] > scores[best]:
                best = row
        left.remove(best)
        chosen.append(best)
    return sorted(chosen)


@given(SCORES, st.data())
def test_takes_the_largest(scores, data):
    count = data.draw(st.integers(1, len(scores)))
    selection = TopK()(torch.tensor(scores), count, context_of())
    assert selection.index.tolist() == reference(scores, count)
    assert is_well_formed(selection, scores, count)
    assert selection.weight is None
    assert selection.state == {}


@given(st.permutations(range(7)))
def test_permuting_the_rows_permutes_the_choice(order):
    scores = torch.tensor([0.4, 2.0, -1.0, 0.1, 7.0, 0.3, 1.0])
    rows = [order[row] for row in choose(TopK(), scores[list(order)], 3)]
    assert sorted(rows) == choose(TopK(), scores, 3)


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([5.0], 1, [0]),
        ([1.0, 1.0, 1.0], 2, [0, 1]),
        ([0.0, 2.0, 1.0], 3, [0, 1, 2]),
        ([-math.inf, 1.0, -math.inf], 2, [0, 1]),
        ([-math.inf, -math.inf], 1, [0]),
    ],
)
def test_ties_and_other_corners(scores, count, expected):
    assert choose(TopK(), scores, count) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_scores_of_any_dtype(dtype):
    index = top_k(torch.tensor([0.5, 2.0, 1.0], dtype=dtype), 2)
    assert index.dtype == torch.int64
    assert index.tolist() == [1, 2]


def test_reads_nothing_back_to_the_host():
    assert not host_reads(TopK(), torch.rand(8), 3, context_of())


def test_is_a_selector():
    assert isinstance(TopK(), Selector)
    assert TopK().needs == frozenset()
    assert not TopK().with_replacement
