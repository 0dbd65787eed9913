from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.rollouts import token_choice
from lightning_select.rollouts.token_choice import check_temperature, choose, token_log_probs
from lightning_select.rollouts.uniforms import uniforms

EDGE = 1 - 2**-53
"""The largest number that is drawn."""


def slow_chances(logits: list[float], temperature: float) -> list[float]:
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    return [weight / math.fsum(weights) for weight in weights]


def slow_choice(logits: list[float], uniform: float, temperature: float) -> int:
    """Walk along the running sum."""
    total = 0.0
    for token, chance in enumerate(slow_chances(logits, temperature)):
        total += chance
        if uniform < total:
            return token
    return max(token for token, logit in enumerate(logits) if logit > -math.inf)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(40, 11, generator=torch.Generator().manual_seed(3)) * 3


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_is_what_a_walk_along_the_sum_finds(logits, temperature) -> None:
    points = uniforms(torch.arange(40), 0)
    points[:2] = torch.tensor([0.0, EDGE])
    tokens, log_probs = choose(logits, points, temperature)
    for row in range(40):
        values = logits[row].tolist()
        assert tokens[row].item() == slow_choice(values, points[row].item(), temperature)
        chance = slow_chances(values, temperature)[int(tokens[row])]
        assert log_probs[row].item() == pytest.approx(math.log(chance), abs=1e-5)
    assert log_probs.dtype == torch.float32
    assert tokens.dtype == torch.int64


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_are_spread_as_the_chances_are(temperature) -> None:
    values, draws = [0.0, 1.0, -1.0, 2.0, 0.5, -math.inf], 40_000
    tokens, _ = choose(torch.tensor(values).expand(draws, -1), uniforms(torch.arange(draws), 0), temperature)
    counts = torch.bincount(tokens, minlength=6).tolist()
    chances = slow_chances(values, temperature)
    assert counts.pop() == chances.pop() == 0
    expected = [draws * chance for chance in chances]
    chi_square = sum((count - wanted) ** 2 / wanted for count, wanted in zip(counts, expected, strict=True))
    assert chi_square < 23.5  # 4 degrees of freedom, one in ten thousand
    other = [draws * chance for chance in slow_chances(values[:-1], temperature * 1.1)]
    assert sum((count - wanted) ** 2 / wanted for count, wanted in zip(counts, other, strict=True)) > 23.5


def test_temperature_zero_takes_the_likeliest_and_the_first_of_equals() -> None:
    tokens, log_probs = choose(torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, 0.0]]), torch.tensor([0.99, 0.99]), 0.0)
    assert tokens.tolist() == [1, 0]
    expected = [math.log(slow_chances(row, 1.0)[token]) for row, token in (([0.0, 2.0, 2.0], 1), ([1.0, 0.0, 0.0], 0))]
    assert log_probs.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_low_temperatures_come_close_to_zero(temperature) -> None:
    tokens, log_probs = choose(
        torch.tensor([[-3e4, 2e4, 1e4]] * 2), torch.tensor([0.0, EDGE], dtype=torch.float64), temperature
    )
    assert tokens.tolist() == [1, 1]
    assert log_probs.tolist() == [0.0, 0.0]


def test_the_largest_draw_never_falls_on_a_token_that_is_forbidden() -> None:
    logits = torch.zeros(2, 50_000)
    logits[:, -1000:] = -math.inf
    tokens, _ = choose(logits, torch.tensor([EDGE, 0.0], dtype=torch.float64), 1.0)
    assert tokens.tolist() == [48_999, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_distribution_is_told_by_its_log_probability(bad) -> None:
    tokens, log_probs = choose(
        torch.tensor([[0.0, bad, 1.0], [0.0, 0.0, 50.0]]), torch.tensor([0.5, 0.5]).double(), 1.0
    )
    assert tokens.tolist() == [2, 2]
    assert log_probs.isfinite().tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_dtype_count_in_float32(logits, dtype) -> None:
    points = uniforms(torch.arange(40), 0)
    rounded = logits.to(dtype)
    tokens, log_probs = choose(rounded, points, 0.7)
    again, same = choose(rounded.float(), points, 0.7)
    assert torch.equal(tokens, again)
    assert torch.equal(log_probs, same)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_parts_change_neither_values_nor_gradients(logits, temperature, monkeypatch) -> None:
    tokens = torch.arange(40) % 11
    results = []
    for part in (token_choice.PART, 25):
        monkeypatch.setattr(token_choice, "PART", part)
        leaf = logits.clone().requires_grad_()
        values = token_log_probs(leaf.view(8, 5, 11), tokens.view(8, 5), temperature)
        (values * torch.arange(40.0).view(8, 5)).sum().backward()
        results.append((values.detach(), leaf.grad, *choose(logits, uniforms(torch.arange(40), 0), temperature)))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-6)
    expected = torch.log_softmax(logits.double() / (temperature or 1), 1).gather(1, tokens[:, None]).view(8, 5)
    torch.testing.assert_close(results[0][0].double(), expected, atol=1e-5, rtol=0)


def test_many_logits_are_not_copied_for_the_backward_pass(monkeypatch) -> None:
    monkeypatch.setattr(token_choice, "PART", 2 * 512)
    logits = torch.randn(64, 512).bfloat16().requires_grad_()
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        token_log_probs(logits, torch.zeros(64, dtype=torch.int64), 0.7)
    kept.pop(logits.untyped_storage().data_ptr(), None)
    assert sum(kept.values()) < logits.nbytes / 8


def test_autocast_does_not_reach_it(logits) -> None:
    plain = token_log_probs(logits, torch.zeros(40, dtype=torch.int64), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(token_log_probs(logits, torch.zeros(40, dtype=torch.int64), 0.5), plain)


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf])
def test_bad_temperatures(temperature) -> None:
    with pytest.raises(ArgumentError, match=rf"Here\.temperature must be finite and 0 or more, got {temperature}\."):
        check_temperature("Here", temperature)
