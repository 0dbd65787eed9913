from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from hypothesis import given

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.group_statistics import as_groups, counted, group_mean, group_range, group_scale
from tests.rollouts.cases import GROUPS, NAN, NO_GROUPS, scored, waits_for


@given(GROUPS)
def test_statistics_are_those_of_the_attempts_that_count(groups):
    rewards = torch.tensor(groups)
    mean, spread, scale = (one(rewards).tolist() for one in (group_mean, group_range, group_scale))
    for number, group in enumerate(groups):
        values = scored(group)
        if not values:
            assert math.isnan(mean[number])
            assert math.isnan(spread[number])
            assert scale[number] == 0
            continue
        assert mean[number] == pytest.approx(sum(values) / len(values))
        assert spread[number] == pytest.approx(max(values) - min(values))
        assert scale[number] == pytest.approx(max(abs(value) for value in values))


def test_an_attempt_without_a_finite_reward_does_not_count():
    rewards = torch.tensor([[1.0, NAN, math.inf], [-math.inf, -3.0, 1.0]])
    assert counted(rewards).tolist() == [[True, False, False], [False, True, True]]
    assert group_mean(rewards).tolist() == [1.0, -1.0]
    assert group_range(rewards).tolist() == [0.0, 4.0]
    assert group_scale(rewards).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("value", [0.3, 0.1, 1 / 3, 7.7])
def test_the_mean_of_equal_rewards_is_that_reward(value):
    rewards = torch.full((1, 7), value)
    assert group_mean(rewards).item() == rewards[0, 0].item()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bool, torch.float32),
        (torch.uint8, torch.float32),
        (torch.int64, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_rewards_of_any_dtype(dtype, expected):
    rewards = torch.tensor([[1, 0, 0, 1]]).to(dtype)
    assert as_groups(rewards).dtype == expected
    assert group_mean(rewards).tolist() == [0.5]
    assert group_range(rewards).tolist() == [1.0]


def test_there_may_be_no_group():
    rewards = torch.zeros(0, 4)
    assert [len(one(rewards)) for one in (counted, group_mean, group_range, group_scale)] == [0] * 4


def test_rewards_have_no_gradient():
    assert not group_mean(torch.rand(2, 3, requires_grad=True)).requires_grad


@pytest.mark.parametrize(("rewards", "told"), NO_GROUPS)
def test_what_are_no_groups(rewards, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^rewards must be a tensor of numbers of shape.*" + told):
        as_groups(rewards)


def test_waits_for_nothing():
    rewards = torch.rand(4, 3)
    assert waits_for(lambda: [one(rewards) for one in (counted, group_mean, group_range, group_scale)]) == []
