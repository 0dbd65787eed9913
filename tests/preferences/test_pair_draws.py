from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.preferences.easy_first import EasyFirst
from lightning_select.preferences.pair_draws import PairDraws


def epoch(sampler: PairDraws, number: int) -> tuple[list[int], list[int]]:
    sampler.set_epoch(number)
    rows = list(sampler)
    return rows[0::2], rows[1::2]


def test_each_model_goes_through_all_pairs_in_an_order_of_its_own():
    sampler = PairDraws(20, seed=1)
    (one, other), (later, _) = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(one) == sorted(other) == sorted(later) == list(range(20))
    assert len({tuple(one), tuple(other), tuple(later)}) == 3
    assert epoch(PairDraws(20, seed=1), 0) == (one, other)
    assert epoch(PairDraws(20, seed=2), 0) != (one, other)


def test_with_one_stream_both_share():
    assert sorted(PairDraws(9, streams=1)) == list(range(9))


def reference(losses: list[list[float]]) -> list[float]:
    """Mean margin of each pair, from the losses of all reviews: loss = log(1 + exp(-margin))."""
    means = []
    for seen in losses:
        margins = [-math.log(math.exp(loss) - 1) for loss in seen if math.isfinite(loss)]
        means.append(sum(margins) / len(margins) if margins else math.nan)
    return means


def test_margins_are_the_mean_of_both_reviews_of_the_last_epoch():
    sampler = PairDraws(4, curriculum=EasyFirst(begin=0.5))
    losses = [[0.3, 0.1], [2.0, 3.0], [0.6, math.nan], []]
    epoch(sampler, 0)
    for visit in (0, 1):
        rows = [row for row, seen in enumerate(losses) if len(seen) > visit]
        sampler.observe(torch.tensor(rows), {"loss": torch.tensor([losses[row][visit] for row in rows])})
    sampler.observe(torch.tensor([-1]), {"loss": torch.tensor([5.0])})
    assert bool(sampler.margins.isnan().all())
    epoch(sampler, 1)
    expected = torch.tensor(reference(losses), dtype=torch.float64)
    torch.testing.assert_close(sampler.margins, expected, equal_nan=True, rtol=1e-6, atol=0)
    epoch(sampler, 2)
    torch.testing.assert_close(sampler.margins, expected, equal_nan=True, rtol=1e-6, atol=0)


def test_a_margin_beyond_all_bounds_is_still_the_largest():
    sampler = PairDraws(3, curriculum=EasyFirst())
    epoch(sampler, 0)
    sampler.observe(torch.arange(3), {"loss": torch.tensor([0.0, 1.0, 1e6])})
    epoch(sampler, 1)
    assert sampler.margins.argsort(descending=True).tolist() == [0, 1, 2]
    assert bool(sampler.margins.isfinite().all())


def learnt(curriculum: EasyFirst, pairs: int = 10) -> PairDraws:
    """Pair 0 is the easiest."""
    sampler = PairDraws(pairs, curriculum=curriculum)
    epoch(sampler, 0)
    sampler.observe(torch.arange(pairs), {"loss": torch.arange(1, pairs + 1) / pairs})
    return sampler


def test_the_pool_grows_and_epochs_keep_their_length():
    sampler = learnt(EasyFirst(begin=0.2, epochs=4))
    for number, pool in ((1, 4), (2, 6), (3, 8), (4, 10)):
        one, other = epoch(sampler, number)
        assert set(one) == set(other) == set(range(pool))
        assert len(one) == len(other) == 10
        assert max(Counter(one).values()) - min(Counter(one).values()) <= 1
        assert one != other
        assert sampler.metrics() == {"pool": pool / 10}


def test_stages_go_from_easy_to_hard():
    one, other = epoch(learnt(EasyFirst(begin=1.0, stages=5)), 1)
    for order in (one, other):
        assert [row // 2 for row in order] == sorted(row // 2 for row in range(10))
    assert one != other


def test_a_state_goes_on_in_the_same_order():
    curriculum = EasyFirst(begin=0.3, epochs=3)
    sampler = learnt(curriculum)
    sampler.set_epoch(1)
    rows, drawing = [], iter(sampler)
    whole = learnt(curriculum)
    whole.set_epoch(1)
    rows = list(whole)
    next(drawing)
    state = sampler.tensors()
    other = PairDraws(10, curriculum=curriculum)
    other.load_tensors(state)
    other._stream.epoch = 1
    place = state["place"]
    assert other.draw(len(rows) - place, torch.Generator()).ids.tolist() == rows[place:] if place < len(rows) else True
    torch.testing.assert_close(other.margins, whole.margins, equal_nan=True)


def test_what_is_learnt_is_not_written_into_a_state_that_was_taken_over():
    first = PairDraws(6, curriculum=EasyFirst())
    first.observe(torch.tensor([0, 1]), {"loss": torch.tensor([0.5, 0.7])})
    state = first.state_dict()
    kept = state["learnt"]["table"].clone()
    second = PairDraws(6, curriculum=EasyFirst())
    second.load_state_dict(state)
    second.observe(torch.tensor([0, 3]), {"loss": torch.tensor([0.1, 0.2])})
    torch.testing.assert_close(state["learnt"]["table"], kept, rtol=0, atol=0, equal_nan=True)


def test_it_learns_only_for_a_curriculum():
    assert PairDraws(3).needs == frozenset()
    assert PairDraws(3, curriculum=EasyFirst()).needs == {"loss"}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"curriculum": 0.5}, "PairDraws.curriculum must be an EasyFirst or None, got 0.5"),
        ({"streams": 0}, "PairDraws.streams must be a whole number, at least 1, got 0"),
    ],
)
def test_what_is_out_of_range_is_told(given, told):
    with pytest.raises(ArgumentError, match=told):
        PairDraws(5, **given)
