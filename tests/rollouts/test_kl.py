from __future__ import annotations

import math

import jaxtyping
import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.kl import kl
from tests.rollouts.cases import tokens, waits_for


def test_is_the_third_estimator_with_its_gradient():
    given = tokens()
    terms = kl(given.log_probs, given.old, given.mask)
    terms.sum().backward()
    for i, row in enumerate(given.mask.tolist()):
        for t, there in enumerate(row):
            apart = given.old[i, t].item() - given.log_probs[i, t].item()
            value, slope = (math.exp(apart) - apart - 1, 1 - math.exp(apart)) if there else (0.0, 0.0)
            assert terms[i, t].item() == pytest.approx(value)
            assert given.log_probs.grad[i, t].item() == pytest.approx(slope)


def test_its_mean_over_tokens_of_the_policy_is_the_divergence():
    policy, reference = torch.rand(2, 1, 9, dtype=torch.float64).log_softmax(-1)
    divergence = sum(
        math.exp(one) * (one - other) for one, other in zip(policy[0].tolist(), reference[0].tolist(), strict=True)
    )
    terms = kl(policy, reference, torch.ones(1, 9, dtype=torch.bool))
    assert (policy.exp() * terms).sum().item() == pytest.approx(divergence)


@pytest.mark.parametrize("spread", [1e-7, 1e-4, 1e-2, 1.0, 10.0])
def test_is_never_negative_and_keeps_its_digits(spread):
    apart = spread * torch.linspace(-1, 1, 2001)
    zeros, mask = torch.zeros(1, 2001), torch.ones(1, 2001, dtype=torch.bool)
    terms = kl(zeros, apart.unsqueeze(0), mask)
    exact = torch.expm1(apart.double()) - apart.double()
    assert (terms >= 0).all()
    assert torch.allclose(terms[0].double(), exact, rtol=1e-5, atol=spread * 2e-7)


def test_equal_policies_are_at_distance_zero_without_a_pull():
    log_probs = torch.full((1, 3), -1.7).requires_grad_()
    terms = kl(log_probs, log_probs, torch.ones(1, 3, dtype=torch.bool))
    terms.sum().backward()
    assert terms.tolist() == [[0.0] * 3]
    assert log_probs.grad.tolist() == [[0.0] * 3]


@pytest.mark.parametrize("apart", [19.0, 25.0, 89.0, 1e4, 1e20])
def test_far_off_it_goes_on_as_its_tangent(apart):
    log_probs = torch.full((1, 1), -apart).requires_grad_()
    terms = kl(log_probs, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
    terms.sum().backward()
    if apart < 20:
        value, slope = math.exp(apart) - apart - 1, 1 - math.exp(apart)
    else:
        value = math.exp(20) - 21 + (math.exp(20) - 1) * (apart - 20)
        slope = 1 - math.exp(20)
    assert terms.item() == pytest.approx(value, rel=1e-5)
    assert log_probs.grad.item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(("policy", "reference"), [(-math.inf, -1.0), (-1.0, -math.inf)])
def test_what_one_of_both_finds_impossible_is_infinitely_far(policy, reference):
    log_probs = torch.tensor([[policy]], requires_grad=True)
    terms = kl(log_probs, torch.tensor([[reference]]), torch.tensor([[True]]))
    terms.sum().backward()
    assert terms.item() == math.inf
    assert log_probs.grad.isfinite().all()


def test_only_the_policy_has_a_gradient_and_padding_none():
    given, reference = tokens(), torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    kl(given.log_probs, reference, given.mask).sum().backward()
    assert reference.grad is None
    assert (given.log_probs.grad[~given.mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype):
    one, other = torch.tensor([[-1.0, -2.0]]).to(dtype), torch.tensor([[-1.25, -1.5]]).to(dtype)
    terms = kl(one, other, torch.tensor([[True, True]]))
    assert terms.dtype == torch.float32
    assert torch.equal(terms, kl(one.float(), other.float(), torch.tensor([[True, True]])))


@pytest.mark.parametrize(
    ("reference", "mask", "told"),
    [
        (torch.zeros(1, 3), torch.ones(2, 3, dtype=torch.bool), r"got \(2, 3\), \(1, 3\), \(2, 3\)"),
        (torch.zeros(2, 3), torch.ones(2, 1, dtype=torch.bool), r"got \(2, 3\), \(2, 3\), \(2, 1\)"),
        (torch.zeros(2, 3), torch.ones(2, 3), "and torch.float32"),
    ],
)
def test_shapes_must_agree(reference, mask, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        kl(torch.zeros(2, 3), reference, mask)


def test_waits_for_nothing():
    given = tokens()
    assert waits_for(lambda: kl(given.log_probs, given.old, given.mask)) == []
