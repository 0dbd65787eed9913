from __future__ import annotations

import collections
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.queues import GroupQueues, shuffled_place
from tests.samplers.runs import at, chi_square
from tests.samplers.waits import waits


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    requests=st.lists(st.lists(st.integers(0, 4), max_size=30), max_size=8),
    seed=st.integers(0, 100),
)
def test_every_pass_over_a_group_holds_each_of_its_rows_once(
    sizes: list[int], requests: list[list[int]], seed: int
) -> None:
    labels = torch.repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes))]
    queues = GroupQueues(labels, len(sizes), seed)
    rows: dict[int, list[int]] = collections.defaultdict(list)
    for request in requests:
        groups = torch.tensor([one % len(sizes) for one in request], dtype=torch.int64)
        taken = queues.take(groups)
        assert labels[taken].equal(groups)
        for group, row in zip(groups.tolist(), taken.tolist(), strict=True):
            rows[group].append(row)
    for group, found in rows.items():
        members = (labels == group).nonzero().squeeze(1).tolist()
        for start in range(0, len(found), sizes[group]):
            part = found[start : start + sizes[group]]
            assert len(set(part)) == len(part)
            if len(part) == sizes[group]:
                assert sorted(part) == members
        assert int(queues.taken[group]) == len(found)


def test_how_the_rows_are_asked_for_does_not_matter() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1, 2])
    groups = torch.randint(3, (40,), generator=torch.Generator().manual_seed(0))
    at_once = GroupQueues(labels, 3, 5).take(groups)
    queues = GroupQueues(labels, 3, 5)
    one_by_one = torch.cat([queues.take(groups[place : place + 1]) for place in range(40)])
    assert at_once.equal(one_by_one)


def test_orders_are_uniform_and_one_pass_says_nothing_about_the_next() -> None:
    """One group of three rows: all 36 pairs of orders of passes that follow each other, in one long queue."""
    rows = GroupQueues(torch.zeros(3, dtype=torch.int64), 1, 1).take(torch.zeros(3 * 8_001, dtype=torch.int64))
    orders = list(itertools.permutations(range(3)))
    numbers = torch.tensor([orders.index(tuple(one)) for one in rows.view(-1, 3).tolist()])
    pairs = torch.bincount(numbers[:-1] * 6 + numbers[1:], minlength=36)
    assert abs(chi_square(pairs, torch.ones(36))) < 4


def test_orders_are_uniform_even_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_select.samplers.queues.ROUNDS", 0)
    orders = list(itertools.permutations(range(3)))
    found = torch.zeros(6)
    for seed in range(1500):
        rows = GroupQueues(torch.tensor([0, 1, 0, 0]), 2, seed).take(at(0, 0, 0))
        found[orders.index(tuple({0: 0, 2: 1, 3: 2}[row] for row in rows.tolist()))] += 1
    assert abs(chi_square(found, torch.ones(6))) < 4


def test_places_are_uniform_over_larger_groups() -> None:
    """Where the rows that came first in one pass of 50 come in the next ones."""
    rows = GroupQueues(torch.zeros(50, dtype=torch.int64), 1, 1).take(torch.zeros(50 * 1001, dtype=torch.int64))
    passes = rows.view(-1, 50)
    first_again = (passes[1:] == passes[:-1, :1]).byte().argmax(dim=1)
    assert abs(chi_square(torch.bincount(first_again, minlength=50), torch.ones(50))) < 4
    neighbours = (passes[1:] == passes[:-1, 1:2]).byte().argmax(dim=1) - first_again
    near = (neighbours.abs() == 1).float().mean()
    assert abs(float(near) - 2 / 50) < 4 * (0.04 / 1000) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
def test_the_shuffle_is_a_permutation_of_any_size(size: int) -> None:
    """Against the definition of swap-or-not, place by place, with the mixing function written out."""
    for key in (0, 1, -(2**63), 2**62 + 12345):
        places = shuffled_place(torch.arange(size), torch.full((size,), size), torch.full((size,), key))
        assert sorted(places.tolist()) == list(range(size))
        assert places.tolist()[:20] == [slow_place(place, size, key) for place in range(min(size, 20))]


def wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def mixed(value: int) -> int:
    value = wrapped((value ^ (value >> 30)) * -4658895280553007687)
    value = wrapped((value ^ (value >> 27)) * -7723592293110705685)
    return value ^ (value >> 31)


def slow_place(place: int, size: int, key: int) -> int:
    for number in range(1, 17):
        bits = mixed(wrapped(key + number * -7046029254386353131))
        partner = (mixed(bits) % 2**62 - place) % size
        coin = wrapped(wrapped(max(place, partner) + bits) * -4658895280553007687)
        if wrapped((coin ^ (coin >> 32)) * -7723592293110705685) < 0:
            place = partner
    return place


def test_seeds_and_groups_have_orders_of_their_own() -> None:
    labels = torch.arange(2).repeat(50)
    first, second = GroupQueues(labels, 2, 0), GroupQueues(labels, 2, 1)
    groups = torch.zeros(50, dtype=torch.int64)
    one, other = first.take(groups), first.take(groups + 1)
    assert not one.equal(second.take(groups))
    assert not (one + 1).equal(other)


def test_state_is_one_cursor_per_group() -> None:
    labels = torch.arange(3).repeat(5)
    first, second = GroupQueues(labels, 3, 0), GroupQueues(labels, 3, 0)
    first.take(at(0, 0, 2, 1, 0, 0, 0, 0))
    state = first.state_dict()
    assert state["cursors"].tolist() == [6, 1, 1]
    second.load_state_dict(state)
    first.take(at(0))
    assert state["cursors"].tolist() == [6, 1, 1]
    second.take(at(0))
    assert first.take(at(0, 1, 2, 0, 0)).equal(second.take(at(0, 1, 2, 0, 0)))
    with pytest.raises(ConfigurationError, match=r"GroupQueues.groups must be as many as in the state \(3\), got 2"):
        GroupQueues(at(0, 1), 2, 0).load_state_dict(state)


def test_nothing_waits_for_a_device() -> None:
    queues, groups = GroupQueues(torch.arange(5).repeat(4), 5, 0), torch.randint(5, (64,))
    assert waits(queues, lambda: queues.take(groups)) == []


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 2], 2, r"GroupQueues.labels must be in \[0, 2\), got 2."),
        ([0, -1], 2, r"GroupQueues.labels must be in \[0, 2\), got -1."),
        ([0, 2, 0], 3, "GroupQueues.labels must give every group a row, got none for group 1."),
        ([], 1, "GroupQueues.labels must give every group a row, got none for group 0."),
    ],
)
def test_bad_input(labels: list[int], groups: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        GroupQueues(torch.tensor(labels, dtype=torch.int64), groups, 0)
