from __future__ import annotations

import itertools
import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.pass_at_k import pass_at_k
from tests.rollouts.cases import waits_for


@given(st.integers(1, 12), st.data())
def test_is_the_quotient_of_binomial_coefficients(attempts, data):
    k = data.draw(st.integers(1, attempts))
    expected = [1 - math.comb(attempts - right, k) / math.comb(attempts, k) for right in range(attempts + 1)]
    assert pass_at_k(torch.arange(attempts + 1), attempts, k).tolist() == pytest.approx(expected, abs=1e-12)


def test_is_the_share_of_choices_with_a_right_one():
    outcomes = [True, False, False, True, False, False]
    choices = list(itertools.combinations(outcomes, 3))
    share = sum(any(choice) for choice in choices) / len(choices)
    assert pass_at_k(torch.tensor(2), 6, 3).item() == pytest.approx(share)


def test_is_unbiased():
    attempts, k, p = 7, 3, 0.2
    mean = sum(
        math.comb(attempts, right)
        * p**right
        * (1 - p) ** (attempts - right)
        * pass_at_k(torch.tensor(right), attempts, k)
        for right in range(attempts + 1)
    )
    assert float(mean) == pytest.approx(1 - (1 - p) ** k)


def test_is_stable_for_many_attempts():
    # The coefficients have thousands of digits.
    right, attempts, k = 3, 20_000, 9_000
    exact = 1 - math.comb(attempts - right, k) / math.comb(attempts, k)
    assert pass_at_k(torch.tensor(right), attempts, k).item() == pytest.approx(exact, rel=1e-9)


def test_attempts_may_differ_and_prompts_may_have_any_shape():
    right, attempts = torch.tensor([[1, 2], [0, 3]]), torch.tensor([[2, 4], [2, 3]])
    expected = [[1.0, 1 - 1 / 6], [0.0, 1.0]]
    for one, other in zip(pass_at_k(right, attempts, 2).tolist(), expected, strict=True):
        assert one == pytest.approx(other)
    assert pass_at_k(torch.zeros(0), 4, 2).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.bfloat16])
def test_counts_of_any_dtype(dtype):
    ours = pass_at_k(torch.tensor([0, 1, 4]).to(dtype), 4, 2)
    assert ours.dtype == torch.float64
    assert ours.tolist() == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("right", "attempts", "k", "told"),
    [
        ([1], 4, 5, r"pass_at_k.k must be at most the number of attempts \(4\), got 5"),
        ([1, 1], [4, 2], 3, r"pass_at_k.k must be at most the number of attempts \(2\), got 3"),
        ([1], 4, 0, "pass_at_k.k must be a whole number, at least 1, got 0"),
        ([1], 4, True, "pass_at_k.k must be a whole number, at least 1, got True"),
        ([1], 4, 1.5, "pass_at_k.k must be a whole number, at least 1, got 1.5"),
        ([1], "4", 1, "pass_at_k.attempts must be a whole number, at least 1, got '4'"),
        ([1, 5], 4, 1, r"pass_at_k.right must be in \[0, attempts\], got numbers from 1 to 5"),
        ([-1, 2], 4, 1, r"pass_at_k.right must be in \[0, attempts\], got numbers from -1 to 2"),
        ([1], [4, 4], 1, r"pass_at_k.right and attempts must have the same shape, got \(1,\) and \(2,\)"),
    ],
)
def test_what_makes_no_sense_is_an_error(right, attempts, k, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    attempts = torch.tensor(attempts) if isinstance(attempts, list) else attempts
    with pytest.raises(ArgumentError, match=told):
        pass_at_k(torch.tensor(right), attempts, k)


def test_on_a_device_it_waits_for_nothing_and_what_makes_no_sense_is_nan():
    found, right, attempts = [], torch.tensor([1, 1, 5, -1]), torch.tensor([4, 2, 4, 4])
    assert waits_for(lambda: found.append(pass_at_k(right, attempts, 3))) == []
    assert found[0].isnan().tolist() == [False, True, True, True]
