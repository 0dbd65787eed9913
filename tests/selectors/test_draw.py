from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.selectors.draw import draw_distinct, draw_repeated
from tests.scores.cases import HOST_READS, Operations
from tests.selectors.cases import agrees, chances_of_sets


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_distinct_rows_follow_the_law_of_drawing_one_after_the_other(count):
    chances = [0.5, 0.2, 0.2, 0.05, 0.05]
    log_chances = torch.tensor(chances).log().expand(30_000, 5)
    sets = map(tuple, draw_distinct(log_chances, count, generator()).tolist())
    assert agrees(Counter(sets), chances_of_sets(chances, count))


def test_distinct_rows_reach_the_tail():
    # Two of nine rows with q = exp(-2 s), s from -2 to 2. The smallest sums of 2 s and noise would include the first
    # rows with .894 .718 .306 .072 .009 .001.
    scores = [-2 + row / 2 for row in range(9)]
    chances = [math.exp(-2 * score) for score in scores]
    included = [0.0] * 9
    for rows, chance in chances_of_sets(chances, 2).items():
        for row in rows:
            included[row] += chance
    assert included[:6] == pytest.approx([0.915, 0.666, 0.263, 0.099, 0.036, 0.013], abs=6e-4)
    drawn = draw_distinct(torch.tensor(chances).log().expand(50_000, 9), 2, generator())
    share = torch.bincount(drawn.flatten(), minlength=9) / 50_000
    assert share.tolist() == pytest.approx(included, abs=0.006)


@given(st.lists(st.sampled_from([0.0, -1.0, -700.0, -math.inf]), min_size=1, max_size=8), st.data())
def test_distinct_rows_are_distinct_and_leave_the_impossible_for_last(log_chances, data):
    count = data.draw(st.integers(1, len(log_chances)))
    rows = draw_distinct(torch.tensor(log_chances), count, generator(data.draw(st.integers(0, 9)))).tolist()
    possible = [row for row, chance in enumerate(log_chances) if chance > -math.inf]
    rest = [row for row, chance in enumerate(log_chances) if chance == -math.inf]
    assert rows == sorted(set(rows))
    assert len(rows) == count
    if count >= len(possible):
        assert rows == sorted(possible + rest[: count - len(possible)])
    else:
        assert set(rows) <= set(possible)


def test_repeated_rows_come_in_proportion_to_their_chances():
    chances = [0.0, 3.0, 1.0, 0.0, 0.5, 0.0]
    rows = draw_repeated(torch.tensor(chances), 100_000, generator())
    assert rows.tolist() == sorted(rows.tolist())
    assert agrees(Counter(rows.tolist()), {row: chance / 4.5 for row, chance in enumerate(chances)})


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_random_numbers_draw_a_possible_row(number, monkeypatch):
    def rand(*size, generator, dtype, device):
        return torch.full(size[0] if isinstance(size[0], torch.Size) else size, number, dtype=dtype)

    monkeypatch.setattr(torch, "rand", rand)
    for total in (1.0, 0.7, 3e37):
        chances = torch.tensor([0.0, 0.3 * total, 0.7 * total, 0.0])
        assert draw_repeated(chances, 1, generator()).item() == (2 if number else 1)
    assert draw_distinct(torch.tensor([-torch.inf, 0.0, 1.0, -torch.inf]), 2, generator()).tolist() == [1, 2]


@pytest.mark.parametrize("draw", [draw_distinct, draw_repeated])
def test_the_generator_alone_decides(draw):
    chances = torch.rand(50)
    first = draw(chances, 20, generator(1))
    torch.manual_seed(5)
    assert torch.equal(first, draw(chances, 20, generator(1)))
    assert not torch.equal(first, draw(chances, 20, generator(2)))


@pytest.mark.parametrize("draw", [draw_distinct, draw_repeated])
def test_reads_nothing_back_to_the_host(draw):
    with Operations() as operations:
        draw(torch.rand(8), 3, generator())
    assert not operations.names & (HOST_READS | {"multinomial"})
