from __future__ import annotations

import math
import statistics

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.advantage_range import AdvantageRange, advantage_range
from lightning_select.rollouts.advantages import advantages
from lightning_select.rollouts.zero_variance import zero_variance
from tests.rollouts.cases import ALMOST, GROUPS, NAN, NO_GROUPS, lists_every_default, scored, waits_for


@given(GROUPS, st.sampled_from([(-0.2, 0.3), (0.0, 0.4), (-0.5, 0.0), (-1.2, 1.2)]), st.sampled_from(["group", "none"]))
def test_rejects_where_all_advantages_are_in_the_range(groups, limits, scale):
    expected = []
    for group in groups:
        values = scored(group)
        mean = sum(values) / len(values) if values else 0.0
        deviation = statistics.stdev(values) + 1e-4 if scale == "group" and len(values) > 1 else 1.0
        gains = [(value - mean) / deviation for value in values]
        expected.append(any(gain < limits[0] - 1e-5 or gain > limits[1] + 1e-5 for gain in gains))
    assert AdvantageRange(*limits, scale=scale)(torch.tensor(groups)).tolist() == expected


@given(GROUPS, st.sampled_from([1e-8, 1.0, 1e4]), st.sampled_from(["group", "none"]))
def test_without_a_range_it_is_the_filter_on_zero_variance(groups, factor, scale):
    rewards = torch.tensor(groups) * factor
    assert torch.equal(AdvantageRange(scale=scale)(rewards), zero_variance(rewards))


def test_the_ends_belong_to_the_range_though_floats_differ():
    rewards = torch.tensor([[0.6, 0.2], [0.7, 0.2], [0.3, 0.3]])
    assert (advantages(rewards, "none")[0].abs() > 0.2).all()
    assert advantage_range(rewards, -0.2, 1.0).tolist() == [False, True, False]
    assert advantage_range(rewards, -1.0, 0.2).tolist() == [False, True, False]
    noise = torch.tensor([[0.3, ALMOST]])
    assert noise[0, 0] != noise[0, 1]
    assert advantage_range(noise).tolist() == [False]


@pytest.mark.parametrize("group", [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0]])
def test_a_group_with_one_right_attempt_is_kept_whole(group):
    assert AdvantageRange()(torch.tensor([group])).tolist() == [True]


@pytest.mark.parametrize("rewards", [[[1.0]], [[1.0, NAN]], [[NAN, NAN]], [[math.inf, 1.0]]])
def test_what_is_never_kept(rewards):
    assert AdvantageRange()(torch.tensor(rewards)).tolist() == [False]


@given(st.permutations(range(4)))
def test_permuting_the_groups_permutes_the_result(order):
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.2, 0.3], [NAN, 1.0]])
    made = AdvantageRange(-0.1, 0.1)
    assert torch.equal(made(rewards[list(order)]), made(rewards)[list(order)])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float64])
def test_rewards_of_any_dtype(dtype):
    assert AdvantageRange()(torch.tensor([[1, 0], [1, 1]]).to(dtype)).tolist() == [True, False]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"low": 0.5, "high": 0.2}, "AdvantageRange.low must be a finite number, at most 0, got 0.5"),
        ({"high": -0.1}, "AdvantageRange.high must be a finite number, at least 0, got -0.1"),
        ({"low": -math.inf}, "AdvantageRange.low must be a finite number, at most 0, got -inf"),
        ({"high": math.nan}, "AdvantageRange.high must be a finite number"),
        ({"high": "1"}, "AdvantageRange.high must be a finite number"),
        ({"scale": "batch"}, "AdvantageRange.scale must be group or none, got 'batch'"),
        ({"tolerance": -1.0}, r"AdvantageRange.tolerance must be a finite number in \[0, 1\], got -1.0"),
    ],
)
def test_what_is_out_of_range_is_an_error(settings, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        AdvantageRange(**settings)


@pytest.mark.parametrize(("rewards", "told"), NO_GROUPS)
def test_what_are_no_groups(rewards, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match=told):
        AdvantageRange()(rewards)


def test_the_config_is_complete():
    assert lists_every_default("filter", "advantage_range", AdvantageRange())


def test_waits_for_nothing():
    rewards = torch.rand(4, 3)
    assert waits_for(lambda: [AdvantageRange(scale="group")(rewards), AdvantageRange()(rewards)]) == []
