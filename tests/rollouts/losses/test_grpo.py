from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.losses.grpo import GRPOLoss, grpo
from tests.rollouts.cases import by_hand, lists_every_default, tokens

BOUNDS = [(0.2, 0.2), (0.2, 0.28), (0.0, 0.0), (1.0, 5.0)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_loss_and_gradient_are_those_of_the_paper(low, high):
    """DeepSeekMath, equation 3: ``1/G sum_i 1/|o_i| sum_t``."""
    given = tokens()
    rows = len(given.mask)
    value, gradient, cut = by_hand(given, low, high, lambda row, count: 1 / rows / count)
    found = GRPOLoss(clip_low=low, clip_high=high)(
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


def test_every_attempt_counts_the_same_however_long():
    now, mask = torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.bool)
    mask[0, :1], mask[1] = True, True
    assert grpo(now, now, torch.tensor([1.0, -1.0]), mask).loss == 0
    assert grpo(now, now, torch.tensor([1.0, 0.0]), mask).loss == -0.5


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan, "0.2", True])
def test_the_lower_bound_is_a_share(bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^GRPOLoss.clip_low must be a finite number in \[0, 1\], got "):
        GRPOLoss(clip_low=bad)


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan, None])
def test_the_upper_bound_is_not_negative(bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ArgumentError, match="^GRPOLoss.clip_high must be a finite number at least 0, got "):
        GRPOLoss(clip_high=bad)


def test_the_config_is_complete():
    assert lists_every_default("loss", "grpo", GRPOLoss())
