from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.balanced import Balanced, balanced
from tests.rollouts.cases import NAN, NO_GROUPS, lists_every_default, waits_for

BANDS = st.sampled_from([(0.25, 0.75), (0.0, 1.0), (0.2, 0.8), (0.1, 0.3), (0.3, 0.3), (1 / 3, 2 / 3), (0.6, 0.9)])


def group(right: int, attempts: int, width: int) -> list[float]:
    return [1.0] * right + [0.0] * (attempts - right) + [NAN] * (width - attempts)


@given(BANDS, st.booleans(), st.integers(2, 30))
def test_keeps_what_is_in_the_band(limits, inclusive, attempts):
    """Against whole numbers: the ends of the band as fractions of 30ths, 25ths or the like are exact in them."""
    low, high = limits
    if low == high and not inclusive:
        return
    expected = []
    for right in range(attempts + 1):
        by_low, by_high = round(right - low * attempts, 9), round(high * attempts - right, 9)
        inside = by_low >= 0 and by_high >= 0 if inclusive else by_low > 0 and by_high > 0
        expected.append(inside and 0 < right < attempts)
    rewards = torch.tensor([group(right, attempts, 31) for right in range(attempts + 1)])
    made = Balanced(low, high, inclusive)
    assert made(rewards).tolist() == expected
    passing = [right for right in range(attempts + 1) if expected[right]]
    if passing:
        assert made.effective(attempts) == (passing[0], passing[-1])
    else:
        with pytest.raises(ArgumentError, match=rf"out of {attempts}, got {low} and {high}"):
            made.effective(attempts)


def test_means_are_compared_without_float_noise():
    # In float32 the mean of three tenths is above or below what 0.3 is in float64.
    rewards = torch.tensor([group(3, 10, 10), group(7, 10, 10)])
    assert balanced(rewards, 0.3, 0.7).tolist() == [True, True]
    assert balanced(rewards, 0.3, 0.7, inclusive=False).tolist() == [False, False]
    assert balanced(rewards, 0.31, 0.69).tolist() == [False, False]


def test_groups_of_unequal_size_count_by_their_own_attempts():
    rewards = torch.tensor([[1.0, 0.0, NAN, NAN], [1.0, 0.0, 0.0, 0.0], [0.0, NAN, NAN, NAN], [NAN] * 4])
    assert balanced(rewards, 0.4, 0.6).tolist() == [True, False, False, False]


def test_rewards_between_right_and_wrong_need_variance_too():
    rewards = torch.tensor([[0.5, 0.5, 0.5], [0.4, 0.5, 0.6], [0.3, 0.3, 0.3]])
    assert balanced(rewards, 0.0, 1.0).tolist() == [False, True, False]


@pytest.mark.parametrize("rewards", [[[1, 0, 0, 0]], [[1, 0]]])
def test_a_group_with_one_right_attempt_is_kept_whole(rewards):
    assert Balanced()(torch.tensor(rewards)).tolist() == [True]
    assert Balanced()(torch.tensor(rewards).bool()).tolist() == [True]


@given(st.permutations(range(5)))
def test_permuting_the_groups_permutes_the_result(order):
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.2, 0.3], [NAN, 1.0], [0.9, 0.8]])
    assert torch.equal(Balanced()(rewards[list(order)]), Balanced()(rewards)[list(order)])
    assert Balanced()(rewards).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("inclusive", [True, False])
def test_widened_takes_in_one_more_number_of_right_attempts_at_both_ends(inclusive):
    band, seen = Balanced(0.5 - 0.1 * (not inclusive), 0.5 + 0.1 * (not inclusive), inclusive), []
    for _ in range(5):
        seen.append(band.effective(8))
        band = band.widened(8)
    assert seen == [(4, 4), (3, 5), (2, 6), (1, 7), (1, 7)]
    assert (band.low, band.high, band.inclusive) == (0.0, 1.0, inclusive)
    assert band.widened(8) == band
    rewards = torch.tensor([group(right, 8, 8) for right in (0, 1, 7, 8)])
    assert band(rewards).tolist() == [False, True, True, False]


def test_bands_with_the_same_effect():
    assert Balanced(0.2, 0.8).effective(16) == Balanced(0.25, 0.75).effective(16) == (4, 12)
    assert Balanced(0.0, 1.0).effective(2) == (1, 1)


@pytest.mark.parametrize(
    ("limits", "attempts"), [((0.25, 0.75), 1), ((0.4, 0.45), 4), ((0.9, 1.0), 8), ((0.0, 0.1), 8), ((0.26, 0.49), 4)]
)
def test_a_band_that_no_number_of_attempts_meets(limits, attempts):
    low, high = limits
    with pytest.raises(ArgumentError, match=f"Balanced.low and Balanced.high must .* {attempts}, got {low} and {high}"):
        Balanced(low, high).effective(attempts)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"low": 0.8}, r"Balanced.low must be at most Balanced.high \(0.75\), got 0.8"),
        ({"low": -0.1}, r"Balanced.low must be a finite number in \[0, 1\], got -0.1"),
        ({"high": 1.1}, r"Balanced.high must be a finite number in \[0, 1\], got 1.1"),
        ({"high": math.nan}, "Balanced.high must be a finite number"),
        ({"low": "0.1"}, "Balanced.low must be a finite number"),
        ({"tolerance": -1e-6}, r"Balanced.tolerance must be a finite number in \[0, 1\], got -1e-06"),
        ({"inclusive": 1}, "Balanced.inclusive must be True or False, got 1"),
        ({"low": 0.75, "inclusive": False}, r"Balanced.low must be below Balanced.high \(0.75\) where .* got 0.75"),
        ({"low": 1.0, "high": 1.0}, "Balanced.low must be below 1, or every group is left out, got 1.0"),
        ({"low": 0.0, "high": 0.0}, "Balanced.high must be above 0, or every group is left out, got 0.0"),
    ],
)
def test_what_is_out_of_range_is_an_error(settings, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        Balanced(**settings)


@pytest.mark.parametrize("attempts", [0, -1, 2.0, True, "4"])
def test_attempts_are_a_whole_number(attempts, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for method in (Balanced().effective, Balanced().widened):
        with pytest.raises(ArgumentError, match="Balanced.attempts must be a whole number, at least 1, got"):
            method(attempts)


@pytest.mark.parametrize("wrong", [-1.0, 1.1, 100.0])
def test_a_reward_that_is_no_rate_is_an_error_where_looking_is_free(wrong):
    rewards = torch.tensor([[1.0, 0.0], [NAN, wrong]])
    with pytest.raises(ArgumentError, match=rf"Balanced.rewards must be in \[0, 1\], got {wrong:g}"):
        Balanced()(rewards)
    kept = []
    assert waits_for(lambda: kept.append(Balanced()(rewards))) == []
    assert kept[0].tolist() == [True, False]


def test_what_does_not_count_may_be_anything():
    assert Balanced()(torch.tensor([[1.0, 0.0, math.inf, -math.inf]])).tolist() == [True]


@pytest.mark.parametrize(("rewards", "told"), NO_GROUPS)
def test_what_are_no_groups(rewards, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match=told):
        Balanced()(rewards)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_rewards_of_any_dtype(dtype):
    rewards = torch.tensor([group(right, 4, 4) for right in range(5)], dtype=dtype)
    assert Balanced()(rewards).tolist() == [False, True, True, True, False]


def test_the_config_is_complete():
    assert lists_every_default("filter", "balanced", Balanced())
