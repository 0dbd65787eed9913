from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.zero_variance import ZeroVariance, zero_variance
from tests.rollouts.cases import ALMOST, GROUPS, NAN, NO_GROUPS, lists_every_default, scored, waits_for


def reference(groups: list[list[float]]) -> list[bool]:
    return [len(set(scored(group))) > 1 for group in groups]


@given(GROUPS)
def test_keeps_the_groups_with_two_different_rewards(groups):
    assert ZeroVariance()(torch.tensor(groups)).tolist() == reference(groups)


@given(
    GROUPS,
    st.floats(-1e3, 1e3),
    st.sampled_from([1.0, -1.0, 0.3, -7.0, 1e-9, -1e-6, 1e-3, 1e6, 1e20]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_what_is_added_or_multiplied_changes_nothing(groups, constant, factor, dtype):
    rewards = torch.tensor(groups, dtype=dtype)
    assert zero_variance(rewards + constant).tolist() == reference(groups)
    assert zero_variance(rewards * factor).tolist() == reference(groups)
    assert zero_variance(rewards * factor + constant * factor).tolist() == reference(groups)


@pytest.mark.parametrize("group", [[1, 0, 0, 0], [1, 0], [1, 1, 1, 0], [True, False], [0.3, 0.30001]])
def test_a_group_with_variance_is_kept_whole(group):
    kept = ZeroVariance()(torch.tensor([group]))
    assert kept.tolist() == [True]


def test_equal_rewards_have_no_variance_though_floats_differ():
    constant = torch.full((1, 7), 0.3)
    squares = (constant.square().mean() - constant.mean().square()).item()
    assert squares != 0 or constant.std().item() != 0  # what a filter on the deviation would fall for
    assert not zero_variance(constant).any()
    noisy = torch.tensor([[0.3, ALMOST, 0.3, ALMOST]])
    assert noisy[0, 0] != noisy[0, 1]
    assert not zero_variance(noisy).any()


def test_zeros_of_parts_that_cancel_have_no_variance():
    assert not zero_variance(torch.tensor([[0.1 + 0.2 - 0.3, 0.0, 0.3 - 0.1 - 0.2]], dtype=torch.float64)).any()


@pytest.mark.parametrize("rewards", [[[1.0]], [[1.0, NAN]], [[NAN, NAN]], [[math.inf, 1.0]], [[0.0, 0.0]]])
def test_what_is_never_kept(rewards):
    assert zero_variance(torch.tensor(rewards), tolerance=0.0).tolist() == [False]


@given(st.permutations(range(5)))
def test_permuting_the_groups_permutes_the_result(order):
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.2, 0.3], [NAN, 1.0], [0.0, 0.0]])
    assert torch.equal(zero_variance(rewards[list(order)]), zero_variance(rewards)[list(order)])
    assert torch.equal(zero_variance(rewards.flip(1)), zero_variance(rewards))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.bfloat16, torch.float16, torch.float64])
def test_rewards_of_any_dtype(dtype):
    assert zero_variance(torch.tensor([[1, 0], [1, 1]]).to(dtype)).tolist() == [True, False]


def test_the_tolerance_is_a_share_of_the_largest_reward():
    rewards = torch.tensor([[100.0, 99.5], [100.0, 98.0], [-100.0, -98.0]])
    assert zero_variance(rewards, tolerance=0.01).tolist() == [False, True, True]
    assert ZeroVariance(tolerance=0.1)(rewards).tolist() == [False, False, False]


@pytest.mark.parametrize(("rewards", "told"), NO_GROUPS)
def test_what_are_no_groups(rewards, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        ZeroVariance()(rewards)


@pytest.mark.parametrize("tolerance", [-1e-9, 1.5, math.nan, math.inf, "0", True, None])
def test_the_tolerance_is_a_share(tolerance, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match=r"^ZeroVariance.tolerance must be a finite number in \[0, 1\], got "):
        ZeroVariance(tolerance)


def test_the_config_is_complete():
    assert lists_every_default("filter", "zero_variance", ZeroVariance())


def test_waits_for_nothing():
    rewards = torch.rand(4, 3)
    assert waits_for(lambda: ZeroVariance()(rewards)) == []
