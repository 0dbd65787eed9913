from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.losses.clipped import clipped_terms
from tests.rollouts.cases import slope, surrogate, tokens, waits_for


@pytest.mark.parametrize("gain", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("ratio", [1e-3, 0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0, 1e3])
def test_each_side_and_sign_of_the_clipping(ratio, gain):
    now = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[True]])
    terms, cut = clipped_terms(now, old, torch.tensor([gain], dtype=torch.float64), mask, 0.2, 0.2)
    terms.sum().backward()
    assert terms.item() == pytest.approx(-surrogate(now.item(), 0.0, gain, 0.2, 0.2))
    assert now.grad.item() == pytest.approx(-slope(now.item(), 0.0, gain, 0.2, 0.2))
    assert cut.item() == ((gain > 0 and ratio > 1.2) or (gain < 0 and ratio < 0.8))


@pytest.mark.parametrize("apart", [-math.inf, -1e4, -50.0, 50.0, 1e4])
@pytest.mark.parametrize("gain", [1.0, -1.0, 0.0])
def test_nothing_overflows_far_off(apart, gain):
    now = torch.tensor([[-60.0 + apart, -2.0]], requires_grad=True)
    terms, _ = clipped_terms(
        now, torch.tensor([[-60.0, -2.0]]), torch.tensor([gain]), torch.ones(1, 2).bool(), 0.2, 0.2
    )
    terms.sum().backward()
    assert terms.isfinite().all()
    assert now.grad.tolist() == [[0.0, -gain]]


def test_outside_the_mask_there_is_neither_loss_nor_gradient():
    given = tokens()
    terms, cut = clipped_terms(given.log_probs, given.old, given.advantages, given.mask, 0.2, 0.2)
    terms.sum().backward()
    assert given.log_probs[~given.mask].isnan().all()
    for one in (terms, cut, given.log_probs.grad):
        assert (one[~given.mask] == 0).all()


def test_only_the_policy_has_a_gradient():
    now, old = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    gains = torch.ones(2, requires_grad=True)
    clipped_terms(now, old, gains, torch.ones(2, 3).bool(), 0.2, 0.2)[0].sum().backward()
    assert old.grad is None
    assert gains.grad is None
    assert (now.grad == -1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype):
    given = tokens(dtype=dtype)
    terms, _ = clipped_terms(given.log_probs, given.old, given.advantages, given.mask, 0.2, 0.2)
    wide = [one.float() for one in (given.log_probs, given.old, given.advantages)]
    assert terms.dtype == torch.float32
    assert torch.equal(terms, clipped_terms(*wide, given.mask, 0.2, 0.2)[0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"log_probs": torch.zeros(6)}, r"^log_probs must have shape \(rows, length\), got \(6,\)"),
        (
            {"old_log_probs": torch.zeros(1, 3)},
            r"^old_log_probs must have the shape of log_probs, \(2, 3\), got \(1, 3\)",
        ),
        ({"mask": torch.ones(2, 1).bool()}, r"^mask must have the shape of log_probs, \(2, 3\), got \(2, 1\)"),
        ({"mask": torch.ones(2, 3)}, "^mask must be boolean, got torch.float32"),
        ({"advantages": torch.zeros(2, 3)}, r"^advantages must have shape \(2,\), one a row, got \(2, 3\)"),
        ({"advantages": torch.zeros(1)}, r"^advantages must have shape \(2,\), one a row, got \(1,\)"),
    ],
)
def test_shapes_must_fit(changes, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    given = {
        "log_probs": torch.zeros(2, 3),
        "old_log_probs": torch.zeros(2, 3),
        "advantages": torch.zeros(2),
        "mask": torch.ones(2, 3).bool(),
    }
    with pytest.raises(ArgumentError, match=told):
        clipped_terms(**{**given, **changes}, clip_low=0.2, clip_high=0.2)


def test_waits_for_nothing():
    given = tokens()
    assert waits_for(lambda: clipped_terms(given.log_probs, given.old, given.advantages, given.mask, 0.2, 0.2)) == []
