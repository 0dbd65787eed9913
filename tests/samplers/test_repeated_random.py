from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.samplers.repeated_random import RepeatedRandom, repeated_random
from tests.samplers.runs import at, chi_square, generator, go_on_alike, saved
from tests.samplers.waits import waits


def rounds(sampler: RepeatedRandom, number: int) -> list[list[int]]:
    return [list(sampler) for _ in range(number)]


def check_passes(found: list[list[int]], rows: int, size: int) -> None:
    """Every round is full and holds no row twice; cut into passes, every pass holds each row once."""
    for one in found:
        assert len(one) == size
        assert len(set(one)) == size
    drawn = list(itertools.chain(*found))
    for start in range(0, len(drawn) - rows + 1, rows):
        assert sorted(drawn[start : start + rows]) == list(range(rows))


def test_twelve_rounds_of_three_out_of_ten() -> None:
    """The released code hands out two rows in round 4, and rows of a pass again."""
    for seed in range(20):
        check_passes(rounds(RepeatedRandom(10, fraction=0.3, seed=seed), 12), 10, 3)


@given(rows=st.integers(1, 30), size=st.integers(1, 30), seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_every_pass_holds_each_row_once(rows: int, size: int, seed: int) -> None:
    size = min(rows, size)
    check_passes(rounds(RepeatedRandom(rows, num_samples=size, seed=seed), 9), rows, size)


@given(rows=st.integers(2, 20), data=st.data())
def test_the_seam_is_that_of_a_slow_loop(rows: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, rows))
    left = data.draw(st.permutations(range(rows)))[: data.draw(st.integers(0, size))]
    following = data.draw(st.permutations(range(rows)))
    chosen, skipped = list(left), []
    rest = list(following)
    while len(chosen) < size:
        row = rest.pop(0)
        (skipped if row in left else chosen).append(row)
    round_, order = repeated_random(torch.tensor(following), torch.tensor(left, dtype=torch.int64), size)
    assert round_.tolist() == chosen
    assert order.tolist() == chosen[len(left) :] + skipped + rest


def test_rounds_differ_and_follow_from_the_seed() -> None:
    first, second = rounds(RepeatedRandom(100), 5), rounds(RepeatedRandom(100), 5)
    assert first == second
    assert len({tuple(one) for one in first}) == 5
    assert first != rounds(RepeatedRandom(100, seed=1), 5)


def test_the_whole_is_a_plain_shuffle() -> None:
    for one in rounds(RepeatedRandom(20, fraction=1.0), 3):
        assert sorted(one) == list(range(20))


def test_with_replacement_every_round_is_drawn_from_all_rows() -> None:
    sampler = RepeatedRandom(10, fraction=0.3, replacement=True)
    found = rounds(sampler, 600)
    assert all(len(set(one)) == 3 for one in found)
    drawn = list(itertools.chain(*found))
    assert any(sorted(drawn[start : start + 10]) != list(range(10)) for start in range(0, 1800, 10))
    assert abs(chi_square(torch.bincount(torch.tensor(drawn), minlength=10), torch.ones(10))) < 4


@pytest.mark.parametrize(("rows", "fraction", "size"), [(10, 0.1, 1), (10, 0.0, 1), (3, 0.1, 1), (50_000, 0.3, 15_000)])
def test_the_length_of_an_epoch(rows: int, fraction: float, size: int) -> None:
    assert len(RepeatedRandom(rows, fraction=fraction)) == size


def test_a_chunk_may_be_larger_than_a_round() -> None:
    ids = RepeatedRandom(10, fraction=0.3).draw(8, generator()).ids.tolist()
    assert ids == (ids[:3] * 3)[:8]
    assert len(set(ids)) == 3


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize(("rows", "fraction"), [(10, 0.3), (11, 0.7), (8, 1.0)])
def test_a_resumed_run_goes_on_bit_for_bit(replacement: bool, rows: int, fraction: float) -> None:
    for before in range(1, 12):
        go_on_alike(
            lambda: RepeatedRandom(rows, fraction=fraction, replacement=replacement), size=2, before=before, after=20
        )


def test_a_pass_goes_on_with_rounds_of_another_size() -> None:
    first = RepeatedRandom(11, num_samples=4)
    drawn = list(itertools.chain(*rounds(first, 4)))  # 16 rows: one pass, and 5 of the next one
    second = RepeatedRandom(11, num_samples=2)
    second.load_state_dict(saved(first))
    drawn += list(itertools.chain(*rounds(second, 3)))
    assert sorted(drawn[11:22]) == list(range(11))


def test_the_state_holds_one_round() -> None:
    sampler = RepeatedRandom(1000, fraction=0.01)
    for _ in range(150):
        list(sampler)
    state = sampler.tensors()
    assert state["plan"].numel() + state["seam"].numel() <= 20
    assert sampler.metrics() == {"passes": 1.5}


def test_nothing_waits_for_a_device() -> None:
    sampler = RepeatedRandom(50)
    sampler.begin()
    assert waits(sampler, lambda: [sampler.draw(4, generator()), sampler.metrics()]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 1.1}, r"RepeatedRandom.fraction must be a finite number in \[0, 1\], got 1.1."),
        ({"num_samples": 11}, "RepeatedRandom.num_samples must be at most 10, all rows, got 11."),
        ({"num_samples": 0}, "RepeatedRandom.num_samples must be a whole number, at least 1, got 0."),
    ],
)
def test_bad_input(arguments, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        RepeatedRandom(10, **arguments)


def test_it_learns_nothing() -> None:
    sampler = RepeatedRandom(10)
    sampler.observe(at(1), {"loss": torch.ones(1)})
    assert sampler.needs == frozenset()


def test_a_fraction_of_half_precision_is_one_of_many_rows() -> None:
    assert len(RepeatedRandom(1_000_000, fraction=np.float16(0.5))) == 500_000
