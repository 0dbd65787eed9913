from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.top1 import Top1, top1
from tests.rollouts.cases import ALMOST, GROUPS, NAN, NO_GROUPS, lists_every_default, scored, waits_for


def reference(groups: list[list[float]]) -> list[list[bool]]:
    kept = []
    for group in groups:
        values = scored(group)
        best = group.index(max(values)) if len(set(values)) > 1 else -1
        kept.append([place == best for place in range(len(group))])
    return kept


@given(GROUPS, st.sampled_from([1.0, 1e-8, 100.0]))
def test_keeps_the_first_best_of_every_group_that_varies(groups, factor):
    assert Top1()(torch.tensor(groups) * factor).tolist() == reference(groups)


def test_of_rewards_that_differ_by_float_noise_the_first_wins():
    rewards = torch.tensor([[0.0, 0.3, ALMOST]])
    assert rewards[0, 2] > rewards[0, 1]
    assert top1(rewards).tolist() == [[False, True, False]]
    assert not top1(rewards[:, 1:]).any()


@pytest.mark.parametrize("rewards", [[[1.0]], [[1.0, NAN]], [[NAN, NAN]], [[math.inf, 1.0]], [[-1.0, -1.0]]])
def test_where_nothing_is_best(rewards):
    assert not top1(torch.tensor(rewards)).any()


def test_the_best_may_be_below_zero():
    assert top1(torch.tensor([[-3.0, -1.0, -2.0]])).tolist() == [[False, True, False]]
    assert top1(torch.tensor([[-3.0, -math.inf, NAN, -4.0]])).tolist() == [[True, False, False, False]]


@given(st.permutations(range(4)))
def test_permuting_the_groups_permutes_the_result(order):
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.2, 0.3], [NAN, 1.0]])
    assert torch.equal(top1(rewards[list(order)]), top1(rewards)[list(order)])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float64])
def test_rewards_of_any_dtype(dtype):
    assert top1(torch.tensor([[0, 1, 1], [1, 1, 1]]).to(dtype)).int().tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(("rewards", "told"), NO_GROUPS)
def test_what_are_no_groups(rewards, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        Top1()(rewards)


@pytest.mark.parametrize("tolerance", [-1e-9, math.nan, "0"])
def test_the_tolerance_is_a_share(tolerance, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match=r"^Top1.tolerance must be a finite number in \[0, 1\], got "):
        Top1(tolerance)


def test_the_config_is_complete():
    assert lists_every_default("filter", "top1", Top1())


def test_waits_for_nothing():
    rewards = torch.rand(4, 3)
    assert waits_for(lambda: Top1()(rewards)) == []
