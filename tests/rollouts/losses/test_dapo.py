from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.losses.dapo import DAPOLoss, dapo
from tests.rollouts.cases import by_hand, lists_every_default, tokens

BOUNDS = [(0.2, 0.2), (0.2, 0.28), (0.0, 0.0), (1.0, 5.0)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_loss_and_gradient_are_those_of_the_paper(low, high):
    """DAPO, equation 12: ``1/sum_i |o_i| sum_i sum_t``."""
    given = tokens()
    total = sum(map(sum, given.mask.tolist()))
    value, gradient, cut = by_hand(given, low, high, lambda row, count: 1 / total)
    found = DAPOLoss(clip_low=low, clip_high=high)(
        given.log_probs, given.old, given.advantages, given.mask, given.totals()
    )
    found.loss.backward()
    assert found.loss.item() == pytest.approx(value)
    assert torch.allclose(given.log_probs.grad, torch.tensor(gradient, dtype=torch.float64))
    assert found.clipped.item() == pytest.approx(cut / given.mask.sum().item())
    if high == 0.2:
        # Both signs are clipped, and both are let through on the side where clipping would lower the loss.
        assert cut > 2
        assert (given.log_probs.grad[given.mask] != 0).sum() > 2


def test_every_token_counts_the_same_so_long_attempts_count_more():
    now, mask = torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.bool)
    mask[0, :1], mask[1] = True, True
    assert dapo(now, now, torch.tensor([1.0, 0.0]), mask).loss.item() == pytest.approx(-1 / 9)
    assert dapo(now, now, torch.tensor([0.0, 1.0]), mask).loss.item() == pytest.approx(-8 / 9)


def test_there_is_more_room_upwards():
    assert DAPOLoss().clip_high > DAPOLoss().clip_low
    old, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    now = torch.tensor([[1.25, 1.3]]).log().requires_grad_()
    dapo(now, old, torch.ones(1), mask).loss.backward()
    assert (now.grad != 0).tolist() == [[True, False]]
    assert dapo(now, old, torch.ones(1), mask).clipped == 0.5


def test_nothing_over_nothing_is_nothing():
    now = torch.zeros(2, 3, requires_grad=True)
    found = dapo(now, now, torch.ones(2), torch.zeros(2, 3, dtype=torch.bool))
    found.loss.backward()
    assert found.loss == 0
    assert (now.grad == 0).all()


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan, "0.2", True])
def test_the_lower_bound_is_a_share(bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^DAPOLoss.clip_low must be a finite number in \[0, 1\], got "):
        DAPOLoss(clip_low=bad)


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan, None])
def test_the_upper_bound_is_not_negative(bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match="^DAPOLoss.clip_high must be a finite number at least 0, got "):
        DAPOLoss(clip_high=bad)


def test_the_config_is_complete():
    assert lists_every_default("loss", "dapo", DAPOLoss())
