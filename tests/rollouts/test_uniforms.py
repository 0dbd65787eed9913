from __future__ import annotations

import math

import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.uniforms import attempt_keys, uniforms


def slow_mixed(value: int) -> int:
    """The finaliser of splitmix64 on Python's whole numbers, with the sign carried by the shifts."""

    def signed(number: int) -> int:
        return (number + 2**63) % 2**64 - 2**63

    value = signed((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9)
    value = signed((value ^ (value >> 27)) * 0x94D049BB133111EB)
    return value ^ (value >> 31)


def slow_uniform(key: int, position: int) -> float:
    step = 0x9E3779B97F4A7C15
    bits = slow_mixed((slow_mixed(key) + position * step + 2**63) % 2**64 - 2**63)
    assert 0 <= bits < 2**63
    return (bits >> 10) / 2**53


@pytest.mark.parametrize("position", [0, 1, 7, 10**6])
def test_is_what_a_loop_computes(position) -> None:
    keys = [0, 1, -1, 12345, 2**62, -(2**63)]
    drawn = uniforms(torch.tensor(keys), position)
    assert drawn.dtype == torch.float64
    assert drawn.tolist() == [slow_uniform(key, position) for key in keys]
    assert all(0 <= value < 1 for value in drawn.tolist())


def test_is_uniform_and_independent_over_attempts_rows_and_places() -> None:
    cells = 16
    grids = []
    for position in range(2):
        keys = attempt_keys(0, 0, torch.arange(2000), 8)
        grids.append((uniforms(keys, position) * cells).long().view(2000, 8))
    here, there = grids
    for pairs in (
        here * cells + there,  # a place and the next
        here[:, :-1] * cells + here[:, 1:],  # an attempt and the next
        here[:-1] * cells + here[1:],  # a prompt and the next
    ):
        counts = torch.bincount(pairs.flatten(), minlength=cells**2).double()
        expected = counts.sum() / cells**2
        chi_square = ((counts - expected) ** 2 / expected).sum().item()
        degrees = cells**2 - 1
        assert abs(chi_square - degrees) < 4 * math.sqrt(2 * degrees)


def test_keys_are_different_and_depend_on_nothing_but_their_place() -> None:
    keys = [attempt_keys(seed, turn, torch.arange(50), 6) for seed in range(3) for turn in range(3)]
    everything = torch.cat(keys)
    assert everything.unique().numel() == everything.numel()
    assert torch.equal(attempt_keys(1, 2, torch.tensor([7, 3]), 6)[6:], attempt_keys(1, 2, torch.tensor([3]), 6))
    assert torch.equal(keys[0], attempt_keys(0, 0, torch.arange(50), 6))
    assert everything.dtype == torch.int64


def test_attempts_may_be_made_in_two_parts() -> None:
    rows = torch.tensor([4, 9])
    whole = attempt_keys(0, 1, rows, 8).view(2, 8)
    parts = [attempt_keys(0, 1, rows, count, first).view(2, count) for first, count in ((0, 3), (3, 5))]
    assert torch.equal(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("seed", [2**70, -(2**70), 2**63])
def test_a_seed_may_be_any_whole_number(seed) -> None:
    assert attempt_keys(seed, 2**40, torch.tensor([2**62]), 2).unique().numel() == 2


def test_touches_no_generator() -> None:
    state = torch.get_rng_state()
    uniforms(attempt_keys(0, 0, torch.arange(3), 2), 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"attempts must be 1 or more, got 0\."):
        attempt_keys(0, 0, torch.arange(2), 0)
    with pytest.raises(ArgumentError, match=r"first must be 0 or more, got -1\."):
        attempt_keys(0, 0, torch.arange(2), 2, -1)
