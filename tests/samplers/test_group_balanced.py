from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.group_balanced import GroupBalanced, group_balanced
from tests.samplers.runs import generator, go_on_alike, saved
from tests.samplers.waits import waits

SIZES = {"a": 4, "b": 16, "c": 100}
GROUPS = [name for name, size in SIZES.items() for _ in range(size)]


def shares(sampler: GroupBalanced, groups: list[str] = GROUPS) -> dict[str, int]:
    found = [groups[row] for row in sampler]
    return {name: found.count(name) for name in sorted(set(groups))}


@pytest.mark.parametrize(("balance", "power"), [("equal", 0), ("square_root", 0.5), ("proportional", 1)])
def test_the_shares_are_powers_of_the_sizes(balance, power: float) -> None:
    total = sum(size**power for size in SIZES.values())
    theirs = [size**power / total for size in SIZES.values()]
    ours = group_balanced(torch.tensor(list(SIZES.values())), balance=balance)
    assert ours.tolist() == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("equal", {"a": 40, "b": 40, "c": 40}),
        ("square_root", {"a": 15, "b": 30, "c": 75}),
        ("proportional", {"a": 4, "b": 16, "c": 100}),
        ({"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 40, "c": 80}),
    ],
)
def test_every_group_has_its_share_of_every_epoch(balance, expected: dict[str, int]) -> None:
    sampler = GroupBalanced(120, GROUPS, balance=balance)
    for _ in range(3):
        assert shares(sampler) == expected


def test_quotas_hold_in_every_chunk() -> None:
    sampler = GroupBalanced(120, GROUPS, balance={"a": 0.5, "b": 0.3, "c": 0.2})
    for seed in range(10):
        found = [GROUPS[row] for row in sampler.draw(10, generator(seed)).ids.tolist()]
        assert (found.count("a"), found.count("b"), found.count("c")) == (5, 3, 2)


def test_rounding_is_carried_over() -> None:
    """Three groups, chunks of one row: every three draws hold each group once."""
    sampler = GroupBalanced(120, GROUPS)
    drawn = [GROUPS[int(sampler.draw(1, generator(seed)).ids)] for seed in range(30)]
    for start in range(0, 30, 3):
        assert sorted(drawn[start : start + 3]) == ["a", "b", "c"]


def test_rows_of_a_group_come_again_only_when_all_have_come() -> None:
    sampler = GroupBalanced(120, GROUPS)
    drawn: list[int] = []
    for _ in range(3):
        drawn += list(sampler)
    for name, size in SIZES.items():
        mine = [row for row in drawn if GROUPS[row] == name]
        for start in range(0, len(mine) - size, size):
            assert len(set(mine[start : start + size])) == size
    assert sampler.metrics() == {"most_passes": 30.0, "least_passes": pytest.approx(1.2)}


def test_labels_may_be_numbers() -> None:
    labels = torch.tensor([5] * 9 + [-2])
    drawn = labels[torch.tensor(list(GroupBalanced(10, labels, balance={5: 1, -2: 4})))]
    assert drawn.tolist().count(-2) == 8


def test_one_group_and_groups_of_one_row() -> None:
    assert sorted(GroupBalanced(5, [1] * 5)) == list(range(5))
    assert sorted(GroupBalanced(5, list(range(5)))) == list(range(5))


def test_a_chunk_may_be_larger_than_the_dataset() -> None:
    ids = GroupBalanced(6, ["a", "b"] * 3).draw(36, generator()).ids
    assert torch.bincount(ids).tolist() == [6] * 6


@pytest.mark.parametrize("balance", ["equal", "square_root", {"a": 1, "b": math.pi, "c": 0}])
def test_a_resumed_run_goes_on_bit_for_bit(balance) -> None:
    for before in (1, 4, 31):
        go_on_alike(lambda: GroupBalanced(120, GROUPS, balance=balance), size=7, before=before)


def test_a_state_of_other_groups_is_refused() -> None:
    state = saved(GroupBalanced(120, GROUPS))
    with pytest.raises(ConfigurationError, match="GroupQueues.groups must be as many as in the state"):
        GroupBalanced(120, [0] * 120).load_state_dict(state)


def test_nothing_waits_for_a_device() -> None:
    sampler, source = GroupBalanced(120, GROUPS), generator()
    assert waits(sampler, lambda: [sampler.draw(16, source), sampler.metrics()]) == []


@pytest.mark.parametrize(
    ("groups", "balance", "message"),
    [
        ([0, 1], "equal", "GroupBalanced.groups must hold one label for each of 3 rows, got 2."),
        ([0, 1, 1], "evenly", "GroupBalanced.balance must be one of equal, square_root, .*, got 'evenly'."),
        ([0, 1, 1], {0: 1, 2: 1}, r"GroupBalanced.balance must name groups of the dataset \(0, 1\), got 2."),
        ([0, 1, 1], {0: 1}, "GroupBalanced.balance must give a share to every group, got none for 1."),
        ([0, 1, 1], 0.5, "GroupBalanced.balance must map every group to its share, got 0.5."),
    ],
)
def test_bad_input(monkeypatch: pytest.MonkeyPatch, groups, balance, message: str) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=message):
        GroupBalanced(3, groups, balance=balance)
