from __future__ import annotations

import math
from collections import Counter

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.protocols import Selector
from lightning_select.schedule import Anneal, resolve
from lightning_select.selectors.percentile import Percentile, percentile
from tests.selectors.cases import SCORES, agrees, chances_of_sets, choose, context_of, host_reads, is_well_formed

DRAWS = 4000


def reference(scores: list[float]) -> list[float]:
    """Rank the finite scores, give equal ones the mean of their places, and take the middle of each place."""
    finite = sorted(score for score in scores if math.isfinite(score))
    shares = []
    for score in scores:
        places = [place for place, other in enumerate(finite) if other == score]
        shares.append((sum(places) / len(places) + 0.5) / len(finite) if places else 0.0)
    return shares


def counts_of(selector: Percentile, scores: list[float], count: int) -> Counter:
    """How often each set of rows is drawn."""
    row, generator = torch.tensor(scores), context_of()
    return Counter(tuple(selector(row, count, generator).index.tolist()) for _ in range(DRAWS))


@given(SCORES)
def test_is_the_middle_of_the_place_in_the_order(scores):
    assert percentile(torch.tensor(scores)).tolist() == pytest.approx(reference(scores))


def test_what_is_not_finite_has_no_place():
    assert percentile(torch.tensor([torch.nan, 2.0, torch.inf, 1.0, -torch.inf])).tolist() == [0, 0.75, 0, 0.25, 0]


@pytest.mark.parametrize(
    ("scores", "count", "pressure"),
    [
        ([0.3, 0.1, 0.9, 0.5], 1, None),
        ([0.3, 0.1, 0.9, 0.5], 2, None),
        ([0.3, 0.1, 0.9, 0.5, 0.2], 3, 2.0),
        ([0.3, 0.1, 0.3, 0.5, 0.1], 2, None),
        ([0.3, -math.inf, 0.9, 0.5], 2, 1.0),
        ([0.3, 0.1, 0.9, 0.5], 2, 0.0),
    ],
)
def test_draws_in_proportion_to_a_power_of_the_percentile(scores, count, pressure):
    power = len(scores) / count - 1 if pressure is None else pressure
    chances = [share**power if share else 0.0 for share in reference(scores)]
    assert agrees(counts_of(Percentile(pressure), scores, count), chances_of_sets(chances, count))


def test_the_test_of_frequencies_can_fail():
    chances = [share**1.2 for share in reference([0.3, 0.1, 0.9, 0.5])]
    assert not agrees(counts_of(Percentile(), [0.3, 0.1, 0.9, 0.5], 2), chances_of_sets(chances, 2))


def test_a_high_rank_is_drawn_more_often():
    counts = counts_of(Percentile(), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 3)
    included = [sum(times for rows, times in counts.items() if row in rows) for row in range(6)]
    assert included == sorted(included)


@given(SCORES, st.data())
def test_always_the_same_number_of_rows(scores, data):
    count = data.draw(st.integers(1, len(scores)))
    pressure = data.draw(st.sampled_from([None, 0.0, 1.0, 1e6]))
    selection = Percentile(pressure)(torch.tensor(scores), count, context_of(data.draw(st.integers(0, 5))))
    assert is_well_formed(selection, scores, count)
    assert selection.weight is None


def test_great_pressure_takes_the_best_rows():
    assert choose(Percentile(1e9), [0.3, 0.1, 0.9, 0.5], 2) == [2, 3]


def test_equal_scores_are_a_uniform_draw():
    assert agrees(counts_of(Percentile(), [1.0] * 4, 2), chances_of_sets([1.0] * 4, 2))


def test_the_generator_alone_decides():
    scores = torch.rand(40)
    first = choose(Percentile(), scores, 20, seed=1)
    torch.manual_seed(5)
    assert choose(Percentile(), scores, 20, seed=1) == first
    assert choose(Percentile(), scores, 20, seed=2) != first


def test_an_anneal_counts_as_its_number_or_by_hand_as_its_begin():
    annealed, scores = Percentile(Anneal(begin=0.0, end=3.0)), torch.rand(20)
    assert resolve(annealed, 5, 10) == Percentile(1.5)
    assert choose(annealed, scores, 5) == choose(Percentile(0.0), scores, 5)


@pytest.mark.parametrize("pressure", [-0.1, math.nan, math.inf, True, "1", Anneal(begin=1.0, end=-1.0)])
def test_pressure_is_a_number_from_zero(pressure, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^Percentile.pressure must be a finite number, at least 0, .* got "):
        Percentile(pressure)


@pytest.mark.parametrize("pressure", [None, 2.0])
def test_reads_nothing_back_to_the_host(pressure):
    assert not host_reads(Percentile(pressure), torch.rand(8), 3, context_of())


def test_is_a_selector():
    assert isinstance(Percentile(), Selector)
    assert Percentile().needs == frozenset()
    assert not Percentile().with_replacement
