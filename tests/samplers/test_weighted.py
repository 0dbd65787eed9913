from __future__ import annotations

import itertools
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from lightning_select.errors import ArgumentError, ConfigurationError, RowIdError
from lightning_select.samplers.weighted import Weighted, weighted
from tests.samplers.runs import at, batches, bound, chi_square, generator, go_on_alike, saved
from tests.samplers.waits import waits


def test_the_chances_are_the_shares_of_the_weights() -> None:
    assert weighted(torch.tensor([1.0, 0.0, 3.0])).tolist() == [0.25, 0.0, 0.75]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bfloat16])
def test_rows_are_drawn_in_proportion(dtype: torch.dtype) -> None:
    weights = torch.tensor([1, 0, 3, 6], dtype=dtype)
    drawn = torch.tensor(list(Weighted(4, weights, num_samples=10_000)))
    assert abs(chi_square(torch.bincount(drawn, minlength=4), weights)) < 4


def test_weights_act_on_the_next_draw() -> None:
    sampler = Weighted(100, [1.0] * 100, num_samples=400)
    rows = iter(sampler)
    first = [next(rows) for _ in range(32)]
    assert len(set(first)) > 10
    sampler.weights[:] = 0.0
    sampler.weights[7] = 1.0
    assert set(rows) == {7}


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda values: Weighted(4, values).weights])
@pytest.mark.parametrize("replacement", [True, False])
def test_weights_that_are_assigned_act_on_the_next_draw(kind: Any, replacement: bool) -> None:
    sampler = Weighted(4, [1.0, 1.0, 0.0, 0.0], replacement=replacement)
    assert set(sampler) == {0, 1}
    sampler.weights = kind([0.0, 0.0, 1.0, 1.0])
    assert sampler.weights.tensor().tolist() == [0.0, 0.0, 1.0, 1.0]
    assert set(sampler) | set(sampler) == {2, 3}
    for wrong, told in (([1.0] * 3, "for each of 4 ids, got 3"), ([1, 1, 1, -1], "be finite and not negative, got -1")):
        with pytest.raises(ArgumentError, match=f"Weighted.weights must .*{told}"):
            sampler.weights = kind(wrong) if kind in (np.array, torch.tensor) else wrong
    assert set(sampler) <= {2, 3}


def test_weights_are_read_and_set_like_a_list() -> None:
    sampler = Weighted(6, [1.0] * 6)
    weights = sampler.weights
    weights[0] = 2
    weights[[1, 2]] = [3.0, 4.0]
    weights[torch.tensor([3])] = torch.tensor([5.0])
    weights[4:] = 6.0
    assert weights.tensor().tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 6.0]
    weights[weights.tensor() == 6] = 7.0
    weights[np.array([0])] = np.array([1.0])
    weights[[]] = []
    assert weights[::2].tolist() == [1.0, 4.0, 7.0]
    assert weights[5] == 7.0
    assert len(weights) == 6
    weights.tensor().zero_()
    assert weights[5] == 7.0


@pytest.mark.parametrize("change", ["*= 2", "/= 2", "+= 1", "-= 1", "**= 2"])
def test_arithmetic_takes_the_tensor_of_the_weights(change: str) -> None:
    sampler = Weighted(3, [1.0, 2.0, 3.0])
    with pytest.raises(ArgumentError, match=r"Weighted.weights must be calculated with as a tensor, got .*tensor\(\)."):
        exec(f"sampler.weights {change}", {"sampler": sampler})
    with pytest.raises(ArgumentError, match="Weighted.weights must be calculated with as a tensor"):
        torch.ones(3) * sampler.weights
    assert list(sampler.weights) == [1, 2, 3]
    sampler.weights = 2 * sampler.weights.tensor()
    assert list(sampler.weights) == [2, 4, 6]


@pytest.mark.parametrize(
    ("ids", "values", "error", "message"),
    [
        (0, -1.0, ArgumentError, "Weighted.weights must be finite and not negative, got -1."),
        ([0, 1], [1.0, float("nan")], ArgumentError, "Weighted.weights must be finite and not negative, got nan."),
        (0, float("inf"), ArgumentError, "Weighted.weights must be finite and not negative, got inf."),
        ([0, 1], [1.0], ArgumentError, "Weighted.weights must be set to one weight, or one for each of 2 ids, got 1."),
        (4, 1.0, RowIdError, r"Weighted.weights must have ids in \[0, 4\), got 4."),
        (-1, 1.0, RowIdError, r"Weighted.weights must have ids in \[0, 4\), got -1."),
        ([0.5], 1.0, RowIdError, "Weighted.weights must be read and set by ids of rows, .*, got torch.float32"),
        (torch.ones(3, dtype=torch.bool), 1.0, RowIdError, "or by a mask of all 4, got torch.bool"),
        (torch.ones(2, 2).long(), 1.0, RowIdError, r"got torch.int64 of shape \(2, 2\)."),
    ],
)
def test_what_cannot_be_set(monkeypatch: pytest.MonkeyPatch, ids, values, error, message: str) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    sampler = Weighted(4, [1.0] * 4)
    with pytest.raises(error, match=message):
        sampler.weights[ids] = values
    assert sampler.weights.tensor().tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("weights", "settings", "message"),
    [
        ([1.0, 2.0], {}, "Weighted.weights must hold one for each of 3 rows, got 2."),
        ([1.0, -2.0, 1.0], {}, "Weighted.weights must be finite and not negative, got -2."),
        ([1.0, float("nan"), 1.0], {}, "Weighted.weights must be finite and not negative, got nan."),
        ([0.0, 0.0, 0.0], {}, "Weighted.weights must hold a positive weight, got zeros only."),
        ([1.0, 0.0, 2.0], {"num_samples": 3, "replacement": False}, "must be at most 2, .* positive weight.*, got 3."),
        ([1.0, 0.0, 2.0], {"num_samples": 0}, "Weighted.num_samples must be a whole number, at least 1, got 0."),
    ],
)
def test_bad_input(weights, settings, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Weighted(3, weights, **settings)


@pytest.mark.parametrize("replacement", [True, False])
def test_zeros_only_are_an_error_at_the_next_draw(replacement: bool) -> None:
    sampler = Weighted(3, [1.0] * 3, replacement=replacement)
    sampler.weights[:] = 0.0
    with pytest.raises(ArgumentError, match="must .* a positive weight, got zeros only"):
        sampler.draw(1, generator())


def test_without_replacement_an_epoch_holds_each_row_of_positive_weight_once() -> None:
    sampler = Weighted(200, [0.0, 1.0] * 100, replacement=False)
    assert len(sampler) == 100
    for _ in range(3):
        assert sorted(sampler) == list(range(1, 200, 2))
    part = list(Weighted(200, [0.0, 1.0] * 100, replacement=False, num_samples=70))
    assert len(set(part)) == 70


def test_without_replacement_rows_come_in_proportion_to_the_weights_of_those_left() -> None:
    """All ordered pairs, drawn in two chunks, by the formula of successive draws."""
    weights = torch.tensor([1.0, 4.0, 2.0, 5.0], dtype=torch.float64)
    chances = weights / weights.sum()
    pairs = list(itertools.permutations(range(4), 2))
    expected = torch.tensor([float(chances[a] * chances[b] / (1 - chances[a])) for a, b in pairs])
    sampler, source, found = Weighted(4, weights, replacement=False), generator(), torch.zeros(len(pairs))
    for _ in range(3000):
        sampler.begin()
        pair = int(sampler.draw(1, source).ids), int(sampler.draw(1, source).ids)
        found[pairs.index(pair)] += 1
    assert abs(chi_square(found, expected)) < 4


def test_without_replacement_a_row_that_was_drawn_stays_out_where_its_weight_is_set() -> None:
    sampler = Weighted(50, [1.0] * 50, replacement=False)
    source = generator()
    first = sampler.draw(20, source).ids
    sampler.weights[:] = 3.0
    assert sampler.metrics()["left"] == 0.6
    second = sampler.draw(30, source).ids
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(50))
    sampler.begin()
    assert sampler.metrics()["left"] == 1
    assert set(sampler.weights.tensor().tolist()) == {3.0}


def test_without_replacement_weights_set_to_zero_end_the_pass_early_and_rows_come_again() -> None:
    sampler = Weighted(10, [1.0] * 10, replacement=False)
    source = generator()
    sampler.draw(4, source)
    sampler.weights[2:] = 0.0
    ids = sampler.draw(7, source).ids.tolist()
    assert set(ids) == {0, 1}
    assert len(ids) == 7


def test_a_chunk_may_be_larger_than_the_dataset() -> None:
    ids = Weighted(5, [1.0, 0.0, 1.0, 1.0, 1.0], replacement=False).draw(11, generator()).ids.tolist()
    assert sorted(ids[:4]) == sorted(ids[4:8]) == [0, 2, 3, 4]
    assert len(set(ids[8:])) == 3


def test_rows_past_2_to_the_24() -> None:
    rows = 2**24 + 100
    weights = torch.zeros(rows)
    weights[-3:] = torch.tensor([1.0, 2.0, 1.0])
    drawn = Weighted(rows, weights).draw(4000, generator()).ids - (rows - 3)
    assert abs(chi_square(torch.bincount(drawn, minlength=3), torch.tensor([1.0, 2.0, 1.0]))) < 4


@pytest.mark.parametrize("replacement", [True, False])
def test_a_resumed_run_goes_on_bit_for_bit(replacement: bool) -> None:
    weights = (torch.arange(23) % 5).tolist()
    for before in (1, 3, 6):
        go_on_alike(lambda: Weighted(23, weights, replacement=replacement), before=before)


@pytest.mark.parametrize("replacement", [True, False])
def test_weights_that_were_set_are_resumed(replacement: bool) -> None:
    first = bound(Weighted(30, [1.0] * 30, replacement=replacement), 4)
    stream = batches(first, 4)
    first.arrived(next(stream))
    first.landed()
    first.weights[:20] = 0.0
    first.weights[20:] = torch.arange(10.0)
    second = bound(Weighted(30, [1.0] * 30, replacement=replacement), 4)
    second.load_state_dict(saved(first))
    assert second.weights.tensor().equal(first.weights.tensor())
    for sampler in (first, second):  # without replacement, rows that were drawn stay out
        sampler.weights[:20] = 1.0
    again = batches(second, 4)
    assert [next(again) for _ in range(10)] == [next(stream) for _ in range(10)]


@pytest.mark.parametrize("replacement", [True, False])
def test_nothing_waits_for_a_device(replacement: bool) -> None:
    sampler, source = Weighted(50, [1.0] * 50, replacement=replacement), generator()

    def steps() -> None:
        for _ in range(10):
            sampler.draw(16, source)
        sampler.metrics()
        sampler.begin()

    assert waits(sampler, steps) == []


def test_metrics() -> None:
    told = Weighted(4, [0.0, 1.0, 1.0, 2.0]).metrics()
    assert told["positive"] == 0.75
    assert float(told["effective"]) == pytest.approx(16 / 6 / 4)
    assert "left" not in told


def test_it_needs_nobody_to_feed_it() -> None:
    sampler = Weighted(4, [1.0] * 4)
    assert sampler.needs == frozenset()
    sampler.observe(at(1), {"loss": torch.ones(1)})


@pytest.mark.parametrize("missing", ["left", "drawn"])
def test_a_state_with_half_of_what_was_drawn_is_refused(missing: str) -> None:
    sampler = Weighted(8, torch.ones(8), replacement=False)
    list(sampler)
    state = sampler.state_dict()
    del state["learnt"][missing]
    with pytest.raises(ConfigurationError, match="Weighted: state.learnt of the checkpoint must hold left and drawn"):
        sampler.load_state_dict(state)
