from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.losses.dr_grpo import DrGRPOLoss, dr_grpo
from tests.rollouts.cases import by_hand, lists_every_default, tokens

BOUNDS = [(0.2, 0.2), (0.2, 0.28), (0.0, 0.0), (1.0, 5.0)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_loss_and_gradient_are_those_of_the_paper(low, high):
    """Dr. GRPO: ``1/G sum_i sum_t``, over a constant."""
    given = tokens()
    rows = len(given.mask)
    value, gradient, cut = by_hand(given, low, high, lambda row, count: 1 / rows / 7)
    found = DrGRPOLoss(clip_low=low, clip_high=high, max_tokens=7)(
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


def test_every_token_counts_the_same_whatever_else_there_is():
    now, mask = torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.bool)
    mask[0, :1], mask[1] = True, True
    assert dr_grpo(now, now, torch.tensor([1.0, 0.0]), mask, max_tokens=8).loss == -1 / 16
    assert dr_grpo(now, now, torch.tensor([0.0, 1.0]), mask, max_tokens=8).loss == -8 / 16


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "8"])
def test_the_constant_is_a_whole_number(bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match="^DrGRPOLoss.max_tokens must be a whole number, at least 1, got "):
        DrGRPOLoss(max_tokens=bad)


def test_the_constant_must_be_there_in_the_end():
    given, unset = tokens(), DrGRPOLoss()
    told = "DrGRPOLoss.max_tokens must be a whole number when the loss is computed, got None"
    with pytest.raises(ArgumentError, match=told):
        unset(given.log_probs, given.old, given.advantages, given.mask, given.totals())
    with pytest.raises(ArgumentError, match=told):
        unset.reduce(given.log_probs, given.mask, given.totals())


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan, "0.2", True])
def test_the_lower_bound_is_a_share(bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^DrGRPOLoss.clip_low must be a finite number in \[0, 1\], got "):
        DrGRPOLoss(clip_low=bad)


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan, None])
def test_the_upper_bound_is_not_negative(bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match="^DrGRPOLoss.clip_high must be a finite number at least 0, got "):
        DrGRPOLoss(clip_high=bad)


def test_the_config_is_complete():
    assert lists_every_default("loss", "dr_grpo", DrGRPOLoss())
