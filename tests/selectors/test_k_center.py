from __future__ import annotations

import itertools
import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import Selector
from lightning_select.schedule import Anneal, resolve
from lightning_select.selectors.k_center import KCenter, k_center, row_features
from lightning_select.signals.base import Signals
from tests.selectors.cases import context_of, host_reads, is_well_formed


def distance(left: list[float], right: list[float]) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(left, right, strict=True)))


def reference(features: list[list[float]], scores: list[float], count: int, weight: float = 0.0) -> list[int]:
    """The best score first, then the farthest from its nearest chosen row, with the score in units of distance."""
    chosen = [max(range(len(features)), key=lambda row: scores[row])]
    while len(chosen) < count:
        left = [row for row in range(len(features)) if row not in chosen]
        chosen.append(
            max(left, key=lambda row: min(distance(features[row], features[c]) for c in chosen) + weight * scores[row])
        )
    return chosen


def radius(features: list[list[float]], chosen: tuple[int, ...] | list[int]) -> float:
    """How far the worst row is from the chosen ones."""
    return max(min(distance(row, features[c]) for c in chosen) for row in features)


def picks(features: list | Tensor, count: int, scores: list[float] | None = None, weight: float = 0.0) -> list[int]:
    features = torch.as_tensor(features)
    return k_center(features, torch.tensor(scores or [0.0] * len(features)), count, weight).tolist()


def chosen_by(selector: KCenter, scores: Tensor, count: int, **signals: Tensor) -> list[int]:
    return selector(scores, count, context_of(**signals)).index.tolist()


@pytest.mark.parametrize("weight", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("count", [1, 2, 7, 12])
@pytest.mark.parametrize("seed", range(5))
def test_takes_the_farthest_row_one_after_the_other(seed, count, weight):
    g = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(12, 3, generator=g), torch.randn(12, generator=g)
    expected = reference(features.tolist(), scores.tolist(), count, weight)
    assert k_center(features, scores, count, weight).tolist() == expected
    selection = KCenter(score_weight=weight)(scores, count, context_of(hidden=features))
    assert selection.index.tolist() == sorted(expected)
    assert selection.weight is None
    assert selection.state == {}


@given(st.integers(0, 1000), st.integers(1, 4))
def test_no_row_is_farther_than_twice_the_best_possible(seed, count):
    features = torch.randn(8, 2, generator=torch.Generator().manual_seed(seed)).tolist()
    best = min(radius(features, chosen) for chosen in itertools.combinations(range(8), count))
    assert radius(features, picks(features, count)) <= 2 * best + 1e-6


def test_the_score_is_worth_so_many_units_of_distance():
    # The row at 5 has 3 to catch up with the row at 8, and a score that is 2 better.
    features, scores = [[0.0], [5.0], [8.0]], [9.0, 2.0, 0.0]
    assert picks(features, 2, scores, 0.0) == [0, 2]
    assert picks(features, 2, scores, 1.49) == [0, 2]
    assert picks(features, 2, scores, 1.51) == [0, 1]


@given(st.integers(2, 8), st.data())
def test_a_twin_comes_last(rows, data):
    features = 1000 + torch.randn(rows, 20, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    first = data.draw(st.integers(0, rows - 1))
    order = data.draw(st.permutations(range(rows + 1)))
    both = torch.cat([features, features[first : first + 1]])[list(order)]
    found = [order[row] for row in k_center(both, torch.zeros(rows + 1), rows + 1).tolist()]
    assert found[-1] in (first, rows)
    assert order.index(found[-1]) == max(order.index(first), order.index(rows))


@pytest.mark.parametrize(
    ("features", "scores", "count", "expected"),
    [
        ([[3.0]], [0.0], 1, [0]),
        ([[1.0]] * 4, [0.0] * 4, 3, [0, 1, 2]),
        ([[1.0]] * 4, [0.0, 2.0, 2.0, 1.0], 2, [1, 0]),
        ([[0.0], [1.0], [-1.0]], [0.0] * 3, 2, [0, 1]),
        ([[0.0], [math.nan], [math.inf], [2.0], [2.0]], [0.0] * 5, 5, [0, 3, 4, 1, 2]),
        ([[0.0], [9.0], [2.0]], [0.0, -math.inf, 0.0], 3, [0, 2, 1]),
        ([[0.0], [9.0], [2.0]], [0.0, math.nan, math.inf], 3, [0, 1, 2]),
        ([[0.0], [9.0]], [-math.inf] * 2, 2, [0, 1]),
        ([[math.nan]] * 3, [0.0, 1.0, 2.0], 2, [0, 1]),
    ],
)
def test_ties_and_other_corners(features, scores, count, expected):
    assert picks(features, count, scores) == expected


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_numbers_at_the_end_of_the_range_harm_nobody(weight):
    features, scores = [[0.0], [3e38], [-3e38], [1.0]], [1.0, 0.0, 3e38, -3e38]
    assert sorted(picks(features, 4, scores, weight)) == [0, 1, 2, 3]
    assert picks([[math.nan], *features], 5, [0.0, *scores], weight)[-1] == 0


def test_a_row_that_is_no_candidate_does_not_cover_others():
    assert picks([[0.0], [math.nan], [5.0], [4.0]], 3, [0.0, 9.0, 1.0, 0.0]) == [2, 0, 3]


@given(st.permutations(range(7)), st.sampled_from([0.0, 0.3]))
def test_permuting_the_rows_permutes_the_choice(order, weight):
    g = torch.Generator().manual_seed(0)
    features, scores = torch.randn(7, 4, generator=g), torch.randn(7, generator=g)
    moved = k_center(features[list(order)], scores[list(order)], 4, weight).tolist()
    assert [order[row] for row in moved] == k_center(features, scores, 4, weight).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computed_in_float32_whatever_comes(dtype):
    features, scores = (300 * torch.randn(9, 4)).to(dtype), torch.zeros(9)
    expected = reference(features.tolist(), scores.tolist(), 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert chosen_by(KCenter(), scores, 5, hidden=features) == sorted(expected)


@given(st.integers(1, 6), st.data())
def test_always_the_same_number_of_rows(rows, data):
    count = data.draw(st.integers(1, rows))
    scores = data.draw(st.lists(st.sampled_from([0.0, 1.0, -math.inf]), min_size=rows, max_size=rows))
    selection = KCenter(score_weight=0.5)(torch.tensor(scores), count, context_of(hidden=torch.randn(rows, 2).round()))
    assert is_well_formed(selection, scores, count)


def test_tokens_are_averaged_over_the_valid_ones():
    hidden = torch.randn(4, 2, 3, 5)
    valid = torch.rand(4, 2, 3) < 0.6
    valid[2] = False
    spoilt = torch.where(valid.unsqueeze(-1), hidden, torch.nan)
    found = row_features(Signals(hidden=spoilt, valid=valid), "hidden", "test")
    for row in range(4):
        tokens = [hidden[row, i, j].tolist() for i in range(2) for j in range(3) if valid[row, i, j]]
        expected = [sum(column) / len(tokens) for column in zip(*tokens, strict=True)] if tokens else [math.nan] * 5
        assert found[row].tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)
    whole = row_features(Signals(hidden=hidden), "hidden", "test")
    assert torch.allclose(whole, hidden.flatten(1, 2).mean(dim=1))
    assert chosen_by(KCenter(), torch.tensor([0.0, 0.0, 9.0, 0.0]), 3, hidden=spoilt, valid=valid) == [0, 1, 3]


def test_rows_without_tokens_are_taken_as_they_are():
    logits = torch.randn(4, 3).half()
    assert torch.equal(row_features(Signals(logits=logits), "logits", "test"), logits.float())
    masked = row_features(Signals(logits=logits, valid=torch.tensor([True, False, True, True])), "logits", "test")
    assert masked.isnan().any(dim=1).tolist() == [False, True, False, False]


def test_compares_what_it_is_told_to():
    hidden, logits = torch.tensor([[0.0], [9.0], [1.0]]), torch.tensor([[0.0], [1.0], [9.0]])
    assert chosen_by(KCenter(), torch.zeros(3), 2, hidden=hidden, logits=logits) == [0, 1]
    assert chosen_by(KCenter("logits"), torch.zeros(3), 2, hidden=hidden, logits=logits) == [0, 2]


def test_an_anneal_counts_as_its_number_or_by_hand_as_its_begin():
    annealed = KCenter(score_weight=Anneal(begin=2.0, end=8.0))
    assert resolve(annealed, 5, 10) == KCenter(score_weight=5.0)
    scores, hidden = torch.randn(9), torch.randn(9, 4)
    assert chosen_by(annealed, scores, 4, hidden=hidden) == chosen_by(
        KCenter(score_weight=2.0), scores, 4, hidden=hidden
    )


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, "1", True, Anneal(begin=1.0, end=-1.0)])
def test_score_weight_is_a_number_from_zero(weight, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^KCenter.score_weight must be a finite number, at least 0, got "):
        KCenter(score_weight=weight)


def test_features_are_one_of_two(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^KCenter.features must be one of hidden, logits, got 'inputs'\.$"):
        KCenter(features="inputs")


@pytest.mark.parametrize("features", ["hidden", "logits"])
def test_needs_the_features_and_says_so(features):
    selector = KCenter(features)
    assert isinstance(selector, Selector)
    assert selector.needs == {features}
    assert not selector.with_replacement
    with pytest.raises(MissingSignalError, match=rf"^KCenter must have the signal '{features}'"):
        selector(torch.zeros(2), 1, context_of())


def test_reads_nothing_back_to_the_host():
    hidden, valid = torch.randn(8, 5, 4), torch.rand(8, 5) < 0.5
    assert not host_reads(KCenter(), torch.rand(8), 3, context_of(hidden=hidden, valid=valid))
    assert not host_reads(KCenter("logits", 0.5), torch.rand(8), 3, context_of(logits=hidden[:, 0]))
