from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.samplers.mixture import Mixture, apportioned, shares_of
from tests.samplers.runs import generator
from tests.samplers.waits import waits


@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(0.01, 10)), min_size=1, max_size=8).filter(any),
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_quotas_are_exact_up_to_rounding_and_what_is_rounded_off_is_made_good(
    weights: list[float], counts: list[int]
) -> None:
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    rows = len(weights) * 5
    labels = torch.arange(rows) % len(weights)
    mixture, total, taken = Mixture(range(len(weights)), labels, 0), 0, torch.zeros(len(weights))
    for number, count in enumerate(counts):
        ids = mixture.take(shares, count, generator(number))
        assert len(ids) == count
        total += count
        taken += torch.bincount(labels[ids], minlength=len(weights))
        assert taken[shares == 0].sum() == 0
        assert (taken - shares * total).abs().max() < 2


def test_whole_parts_then_the_largest_remainders() -> None:
    live = np.array([True, True, True])
    assert apportioned(np.array([2.6, 1.3, 1.1]), 5, live).tolist() == [3, 1, 1]
    assert apportioned(np.array([0.5, 0.5, 0.0]), 1, live).tolist() == [1, 0, 0]  # the first of equals
    assert apportioned(np.array([2.0, 2.0, -2.0]), 2, live).tolist() in ([1, 1, 0], [2, 0, 0])
    assert apportioned(np.array([3.0, 0.0, 0.0]), 3, np.array([False, True, True])).tolist() == [0, 2, 1]


def test_after_a_switch_the_new_shares_hold_at_once() -> None:
    """What a group had too much of by the old shares is not taken back."""
    labels = torch.arange(10) % 2
    mixture = Mixture(["a", "b"], labels, 0)
    for shares, expected in (([0.9, 0.1], 1), ([0.1, 0.9], 9), ([0.1, 0.9], 9)):
        ids = mixture.take(torch.tensor(shares, dtype=torch.float64), 10, generator())
        assert int(labels[ids].sum()) == expected


def test_a_share_of_zero_gives_nothing_even_if_something_is_owed() -> None:
    labels = torch.arange(9) % 3
    mixture = Mixture(range(3), labels, 0)
    alike = torch.full((3,), 1 / 3, dtype=torch.float64)
    first = [int(labels[mixture.take(alike, 1, generator())]) for _ in range(2)]
    (owed,) = {0, 1, 2} - set(first)
    shares = torch.full((3,), 0.5, dtype=torch.float64)
    shares[owed] = 0.0
    assert int(labels[mixture.take(shares, 1, generator())]) != owed


def test_the_order_of_groups_in_a_chunk_is_shuffled() -> None:
    labels = torch.arange(1000) % 2
    mixture = Mixture(["a", "b"], labels, 0)
    drawn = labels[mixture.take(torch.tensor([0.5, 0.5], dtype=torch.float64), 1000, generator())]
    assert 400 < int((drawn[1:] != drawn[:-1]).sum()) < 600


def test_shares_are_divided_by_their_sum() -> None:
    assert shares_of("Owner", "weights", {"b": 1, "a": 3}, ["a", "b"]).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "Owner.weights must name groups of the dataset \\('a', 'b'\\), got 'c'."),
        ({"a": 1.0}, "Owner.weights must give a share to every group, got none for 'b'. 0 leaves a group out."),
        ({"a": 1.0, "b": -1.0}, r"Owner.weights\['b'\] must be a finite number in .*, got -1.0."),
        ({"a": 1.0, "b": float("nan")}, r"Owner.weights\['b'\] must be a finite number in .*, got nan."),
        ({"a": 0.0, "b": 0.0}, "Owner.weights must give a share above 0 to some group, got zeros only."),
        ([1.0, 2.0], r"Owner.weights must map every group to its share, got \[1.0, 2.0\]."),
    ],
)
def test_bad_shares(weights, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        shares_of("Owner", "weights", weights, ["a", "b"])


def test_nothing_waits_for_a_device() -> None:
    mixture = Mixture(range(3), torch.arange(30) % 3, 0)
    shares, source = torch.full((3,), 1 / 3, dtype=torch.float64), generator()
    assert waits(mixture, lambda: [mixture.take(shares, 16, source), mixture.passes()]) == []
