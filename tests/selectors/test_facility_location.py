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
from lightning_select.selectors.facility_location import (
    FacilityLocation,
    cluster_weights,
    facility_location,
    similarities,
)
from tests.selectors.cases import context_of, host_reads, is_well_formed

KINDS = ("cosine", "distance")


def similarity_of(features: list[list[float]], kind: str) -> list[list[float]]:
    """Between 0 and 1, row by row."""

    def cosine(left: list[float], right: list[float]) -> float:
        dot = sum(a * b for a, b in zip(left, right, strict=True))
        return (1 + dot / math.sqrt(sum(a * a for a in left)) / math.sqrt(sum(b * b for b in right))) / 2

    if kind == "cosine":
        return [[cosine(left, right) for right in features] for left in features]
    distances = [[math.dist(left, right) for right in features] for left in features]
    most = max(max(row) for row in distances)
    return [[1 - distance / most for distance in row] for row in distances]


def covered(similarity: list[list[float]], chosen: list[int] | tuple[int, ...]) -> float:
    """How similar each row is to the nearest of the chosen, summed up."""
    return sum(max((row[c] for c in chosen), default=0.0) for row in similarity)


def greedy(similarity: list[list[float]], count: int, scores: list[float] | None = None) -> list[int]:
    """Of equal gains, which two rows nearest to each other have, the better score."""
    scores, chosen = scores or [0.0] * len(similarity), []
    for _ in range(count):
        left = [row for row in range(len(similarity)) if row not in chosen]
        sums = {row: covered(similarity, [*chosen, row]) for row in left}
        equal = [row for row in left if sums[row] > max(sums.values()) - 1e-6]
        chosen.append(max(equal, key=lambda row: scores[row]))
    return chosen


def picks(similarity: list | Tensor, count: int, scores: list[float] | None = None) -> list[int]:
    similarity = torch.as_tensor(similarity)
    return facility_location(similarity, torch.tensor(scores or [0.0] * len(similarity)), count).tolist()


def chosen_by(selector: FacilityLocation, scores: Tensor, count: int, **signals: Tensor) -> list[int]:
    return selector(scores, count, context_of(**signals)).index.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_similarities_are_as_described(kind):
    features = torch.randn(9, 4) + 1
    found = similarities(features, torch.ones(9, dtype=torch.bool), kind)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(similarity_of(features.tolist(), kind)))
    assert found.diagonal().tolist() == [1.0] * 9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 6, 11])
@pytest.mark.parametrize("seed", range(5))
def test_takes_the_row_that_adds_most_one_after_the_other(seed, count, kind):
    g = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(12, 3, generator=g), torch.randn(12, generator=g)
    expected = greedy(similarity_of(features.tolist(), kind), count, scores.tolist())
    similarity = similarities(features, torch.ones(12, dtype=torch.bool), kind)
    assert facility_location(similarity, scores, count).tolist() == expected
    selection = FacilityLocation(similarity=kind)(scores, count, context_of(hidden=features))
    assert selection.index.tolist() == sorted(expected)
    assert selection.weight is None
    assert selection.state == {}


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), count=st.integers(1, 4))
def test_comes_near_the_best_possible(kind, seed, count):
    features = torch.randn(8, 2, generator=torch.Generator().manual_seed(seed)).tolist()
    similarity = similarity_of(features, kind)
    best = max(covered(similarity, chosen) for chosen in itertools.combinations(range(8), count))
    assert covered(similarity, picks(similarity, count)) >= (1 - 1 / math.e) * best


@pytest.mark.parametrize("kind", KINDS)
@given(rows=st.integers(3, 8), data=st.data())
def test_a_twin_comes_last(kind, rows, data):
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    features = 5 + torch.randn(rows, 20, generator=g)
    first = data.draw(st.integers(0, rows - 1))
    order = data.draw(st.permutations(range(rows + 1)))
    both = torch.cat([features, features[first : first + 1]])[list(order)]
    similarity = similarities(both, torch.ones(rows + 1, dtype=torch.bool), kind)
    # For the rows farthest from each other a similarity is 0: each adds all the same what it is to itself.
    found = [order[row] for row in picks(similarity, rows + 1)]
    assert found[-1] in (first, rows)
    assert order.index(found[-1]) == max(order.index(first), order.index(rows))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_all_alike(kind):
    features = torch.tensor([[0.3, 0.7, -0.2]]).expand(5, 3)
    usable = torch.ones(5, dtype=torch.bool)
    similarity = similarities(features, usable, kind)
    assert torch.allclose(similarity, torch.ones(5, 5))
    assert picks(similarity, 3) == [0, 1, 2]
    assert cluster_weights(similarity, torch.tensor([0, 1, 2]), usable).tolist() == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("features", "scores", "count", "expected"),
    [
        ([[3.0]], [0.0], 1, [0]),
        ([[0.0]], [0.0], 1, [0]),
        ([[0.0], [4.0], [5.0], [9.0]], [0.0] * 4, 1, [1]),
        ([[0.0], [math.nan], [math.inf], [2.0], [2.0]], [0.0] * 5, 4, [0, 1, 3, 4]),
        ([[0.0], [9.0], [2.0]], [0.0, -math.inf, 0.0], 2, [0, 2]),
        ([[0.0], [9.0], [2.0]], [math.nan, 0.0, math.inf], 2, [0, 1]),
        ([[0.0], [9.0]], [-math.inf] * 2, 1, [0]),
        ([[math.nan]] * 3, [0.0, 1.0, 2.0], 2, [0, 1]),
    ],
)
@pytest.mark.parametrize("weights", [False, True])
def test_ties_and_other_corners(features, scores, count, expected, weights):
    selector = FacilityLocation(similarity="distance", weights=weights)
    selection = selector(torch.tensor(scores), count, context_of(hidden=torch.tensor(features)))
    assert selection.index.tolist() == expected
    assert not weights or selection.weight.isfinite().all()


def test_the_score_decides_between_rows_that_add_the_same():
    # Once a row near 0 is chosen, the pair at 9 has the same to gain from either.
    features = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.5]])
    similarity = similarities(features, torch.ones(5, dtype=torch.bool), "distance")
    assert picks(similarity, 2, [9.0, 0.0, 0.0, 1.0, 2.0]) == [2, 4]
    assert picks(similarity, 2, [9.0, 0.0, 0.0, 2.0, 1.0]) == [2, 3]
    assert picks(similarity, 2, [9.0, 0.0, 0.0, 2.0, 2.0]) == [2, 3]


def test_unusable_rows_need_not_be_covered():
    # The three at 9 would draw the first pick to them.
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0], [9.0], [9.0]])
    scores = torch.tensor([0.0, 0.0, 0.0, -math.inf, math.nan, math.inf])
    selector = FacilityLocation(similarity="distance", weights=True)
    assert chosen_by(selector, scores, 1, hidden=features) == [1]
    found = selector(scores, 4, context_of(hidden=features))
    assert found.index.tolist() == [0, 1, 2, 3]
    assert found.weight.tolist() == pytest.approx([4 / 3, 4 / 3, 4 / 3, 0.0])


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_rows_do_not_change_the_similarities_of_others(kind):
    features = 100 + torch.randn(6, 4)
    usable = torch.tensor([True, True, False, True, True, True])
    found = similarities(features.index_fill(0, torch.tensor([2]), torch.nan), usable, kind)
    alone = similarities(features[usable], torch.ones(5, dtype=torch.bool), kind)
    torch.testing.assert_close(found[usable][:, usable], alone)


def test_a_row_of_zeros_is_at_right_angles_to_all_others():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -2.0]])
    found = similarities(features, torch.ones(3, dtype=torch.bool), "cosine")
    assert found.tolist() == [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]]


def test_weights_are_the_rows_that_each_one_stands_for():
    features, scores = torch.tensor([[0.0], [0.1], [-0.1], [10.0], [10.1], [30.0]]), torch.tensor([1.0, 0, 0, 2, 0, 0])
    selection = FacilityLocation(similarity="distance", weights=True)(scores, 3, context_of(hidden=features))
    assert selection.index.tolist() == [0, 3, 5]
    assert selection.weight.tolist() == pytest.approx([3 / 2, 2 / 2, 1 / 2])


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 99), count=st.integers(1, 9))
def test_weights_against_a_count(kind, seed, count):
    features = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed))
    selection = FacilityLocation(similarity=kind, weights=True)(torch.zeros(9), count, context_of(hidden=features))
    similarity, index = similarity_of(features.tolist(), kind), selection.index.tolist()
    nearest = [max(index, key=lambda c, row=row: row[c]) for row in similarity]
    expected = [nearest.count(row) * count / 9 for row in index]
    assert selection.weight.tolist() == pytest.approx(expected, rel=1e-5)


def test_rows_between_chosen_ones_count_in_parts():
    similarity, usable = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.5, 0.5, 1.0]]), torch.ones(3).bool()
    assert cluster_weights(similarity, torch.tensor([0, 1]), usable).tolist() == [1.0, 1.0]
    assert cluster_weights(similarity, torch.tensor([0, 1]), torch.zeros(3).bool()).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", KINDS)
@given(order=st.permutations(range(7)))
def test_permuting_the_rows_permutes_choice_and_weights(kind, order):
    g = torch.Generator().manual_seed(0)
    features, scores = torch.randn(7, 4, generator=g), torch.randn(7, generator=g)
    selector = FacilityLocation(similarity=kind, weights=True)
    one = selector(scores, 3, context_of(hidden=features))
    other = selector(scores[list(order)], 3, context_of(hidden=features[list(order)]))
    weights = dict(zip(one.index.tolist(), one.weight.tolist(), strict=True))
    moved = dict(zip([order[row] for row in other.index.tolist()], other.weight.tolist(), strict=True))
    assert moved == pytest.approx(weights)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_features_does_not_matter(kind, factor):
    features = torch.randn(12, 4)
    selector = FacilityLocation(similarity=kind)
    expected = chosen_by(selector, torch.zeros(12), 5, hidden=features)
    assert chosen_by(selector, torch.zeros(12), 5, hidden=features * factor) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_computed_in_full_precision_whatever_comes(kind, dtype):
    features = (300 * torch.randn(12, 4)).to(dtype)
    expected = greedy(similarity_of(features.tolist(), kind), 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert chosen_by(FacilityLocation(similarity=kind), torch.zeros(12), 5, hidden=features) == sorted(expected)


@given(st.integers(1, 6), st.sampled_from(KINDS), st.data())
def test_always_the_same_number_of_rows(rows, kind, data):
    count = data.draw(st.integers(1, rows))
    scores = data.draw(st.lists(st.sampled_from([0.0, 1.0, -math.inf]), min_size=rows, max_size=rows))
    selector = FacilityLocation(similarity=kind, weights=True)
    selection = selector(torch.tensor(scores), count, context_of(hidden=torch.randn(rows, 2).round()))
    assert is_well_formed(selection, scores, count)
    assert (selection.weight >= 0).all()
    assert selection.weight.mean().item() == pytest.approx(1.0)


def test_tokens_are_averaged_over_the_valid_ones():
    hidden, valid = torch.randn(6, 5, 3), torch.rand(6, 5) < 0.6
    valid[:, 0] = True
    means = torch.stack([row[mask].mean(dim=0) for row, mask in zip(hidden, valid, strict=True)])
    spoilt = torch.where(valid.unsqueeze(-1), hidden, torch.nan)
    expected = chosen_by(FacilityLocation(), torch.zeros(6), 3, hidden=means)
    assert chosen_by(FacilityLocation(), torch.zeros(6), 3, hidden=spoilt, valid=valid) == expected
    valid[expected[0]] = False
    assert expected[0] not in chosen_by(FacilityLocation(), torch.zeros(6), 5, hidden=spoilt, valid=valid)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("features", "inputs", "one of hidden, logits, got 'inputs'"),
        ("similarity", "dot", "one of cosine, distance, got 'dot'"),
        ("weights", 1, "true or false, got 1"),
    ],
)
def test_fields_are_checked(field, value, rule, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=rf"^FacilityLocation.{field} must be {rule}\.$"):
        FacilityLocation(**{field: value})


@pytest.mark.parametrize("features", ["hidden", "logits"])
def test_needs_the_features_and_says_so(features):
    selector = FacilityLocation(features)
    assert isinstance(selector, Selector)
    assert selector.needs == {features}
    assert not selector.with_replacement
    with pytest.raises(MissingSignalError, match=rf"^FacilityLocation must have the signal '{features}'"):
        selector(torch.zeros(2), 1, context_of())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [False, True])
def test_reads_nothing_back_to_the_host(kind, weights):
    hidden, valid = torch.randn(8, 5, 4), torch.rand(8, 5) < 0.5
    selector = FacilityLocation(similarity=kind, weights=weights)
    assert not host_reads(selector, torch.rand(8), 3, context_of(hidden=hidden, valid=valid))
