from __future__ import annotations

import math
import statistics

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.advantages import SCALES, advantages
from lightning_select.rollouts.balanced import Balanced
from lightning_select.rollouts.zero_variance import zero_variance
from tests.rollouts.cases import GROUPS, NAN, NO_GROUPS, scored, waits_for


def reference(groups: list[list[float]], scale: str, eps: float) -> list[list[float]]:
    centred = []
    for group in groups:
        values = scored(group)
        mean = sum(values) / len(values) if values else 0.0
        centred.append([reward - mean if math.isfinite(reward) else NAN for reward in group])
    everything = [gain for group in centred for gain in scored(group)]
    batch = statistics.stdev(everything) if len(everything) > 1 else 0.0
    result = []
    for group in centred:
        own = statistics.stdev(scored(group)) if len(scored(group)) > 1 else 0.0
        deviation = {"none": 1.0, "group": own + eps, "batch": batch + eps}[scale]
        result.append([gain / deviation if math.isfinite(gain) else 0.0 for gain in group])
    return result


@given(GROUPS, st.sampled_from(SCALES), st.sampled_from([1e-4, 0.1]))
def test_rewards_less_their_mean_over_a_deviation(groups, scale, eps):
    ours = advantages(torch.tensor(groups, dtype=torch.float64), scale, eps).tolist()
    for one, other in zip(ours, reference(groups, scale, eps), strict=True):
        assert one == pytest.approx(other, abs=1e-9)


def test_numbers_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, NAN, NAN]])
    assert advantages(rewards, "none").tolist() == [[0.75, -0.25, -0.25, -0.25], [0.5, -0.5, 0.0, 0.0]]
    # Deviations with Bessel's correction: 0.5, and the root of 0.5.
    assert advantages(rewards, "group", eps=0.0)[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert advantages(rewards, "group", eps=0.0)[1, :2].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])
    # Six centred rewards whose squares add up to 1.25.
    assert advantages(rewards, "batch", eps=0.0)[1, 0].item() == pytest.approx(0.5 / 0.25**0.5)


def test_mean_size_of_the_advantages_of_right_and_wrong():
    """Over binomial attempts, the mean of |A| without scale is ``2 p (1 - p) (G - 1) / G``."""
    size, p = 8, 0.3
    expected = 0.0
    for right in range(size + 1):
        chance = math.comb(size, right) * p**right * (1 - p) ** (size - right)
        group = torch.tensor([[1.0] * right + [0.0] * (size - right)]).double()
        expected += chance * advantages(group, "none").abs().mean().item()
    assert expected == pytest.approx(2 * p * (1 - p) * (size - 1) / size)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_what_has_no_variance_has_no_advantage(scale, eps):
    rewards = torch.tensor([[0.3] * 7, [0.1] * 7, [1.0] + [NAN] * 6, [NAN] * 7])
    assert advantages(rewards, scale, eps).tolist() == [[0.0] * 7] * 4


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("scale", SCALES)
def test_an_attempt_that_does_not_count_harms_no_other(scale, bad):
    rewards = torch.tensor([[1.0, 0.0, 0.5, bad], [0.2, 0.3, bad, 0.9]])
    ours = advantages(rewards, scale)
    assert ours[0, 3] == ours[1, 2] == 0
    alone = advantages(torch.tensor([[1.0, 0.0, 0.5], [0.2, 0.3, 0.9]]), scale)
    assert torch.allclose(ours[0, :3], alone[0])
    assert torch.allclose(ours[1, [0, 1, 3]], alone[1])


@pytest.mark.parametrize("keep", [zero_variance, Balanced(0.3, 0.7)])
def test_filter_first_or_last_is_the_same_for_the_scale_of_the_group_and_not_of_the_batch(keep):
    rewards = torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 0]])
    kept = keep(rewards)
    assert 0 < kept.sum() < len(rewards)
    for scale in ("group", "none"):
        assert torch.equal(advantages(rewards[kept], scale), advantages(rewards, scale)[kept])
    assert not torch.allclose(advantages(rewards[kept], "batch"), advantages(rewards, "batch")[kept], rtol=0.01)


@given(st.permutations(range(4)), st.sampled_from(SCALES))
def test_permuting_the_groups_permutes_the_result(order, scale):
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.2, 0.3], [NAN, 1.0]])
    assert torch.allclose(advantages(rewards[list(order)], scale), advantages(rewards, scale)[list(order)])


def test_a_constant_is_nothing_and_a_factor_is_scaled_away():
    rewards = torch.rand(5, 6, dtype=torch.float64)
    for scale in SCALES:
        assert torch.allclose(advantages(rewards + 100, scale), advantages(rewards, scale))
    for scale in ("group", "batch"):
        assert torch.allclose(advantages(rewards * 1e3, scale, eps=0.0), advantages(rewards, scale, eps=0.0))
        assert torch.allclose(advantages(-rewards, scale), -advantages(rewards, scale))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float16])
def test_halves_and_whole_numbers_give_float32(dtype):
    ours = advantages(torch.tensor([[1, 0, 0], [1, 1, 0]]).to(dtype))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, advantages(torch.tensor([[1.0, 0, 0], [1, 1, 0]])))
    assert advantages(torch.rand(2, 2).double()).dtype == torch.float64


def test_there_may_be_no_group_and_there_is_no_gradient():
    assert advantages(torch.zeros(0, 3), "batch").shape == (0, 3)
    assert not advantages(torch.rand(2, 3, requires_grad=True)).requires_grad


@pytest.mark.parametrize(("rewards", "told"), NO_GROUPS)
def test_what_are_no_groups(rewards, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        advantages(rewards)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scale": "std"}, "advantages.scale must be one of group, batch, none, got 'std'"),
        ({"scale": None}, "advantages.scale must be one of group, batch, none, got None"),
        ({"eps": -1.0}, "advantages.eps must be a finite number at least 0, got -1.0"),
        ({"eps": NAN}, "advantages.eps must be a finite number at least 0, got nan"),
    ],
)
def test_what_is_out_of_range_is_an_error(settings, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match=told):
        advantages(torch.rand(2, 2), **settings)


@pytest.mark.parametrize("scale", SCALES)
def test_waits_for_nothing(scale):
    rewards = torch.rand(4, 3)
    assert waits_for(lambda: advantages(rewards, scale)) == []
