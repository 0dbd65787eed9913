# ruff: noqa: NPY002  (the global generator of NumPy is what is tested)
from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lightning_select.signals.traceless import generators
from lightning_select.signals.traceless.generators import Generators

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    state, owner = np.random.get_state(legacy=False), np.random.get_bit_generator()
    yield
    np.random.set_bit_generator(owner)
    np.random.set_state(state)


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]


INSIDE: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "uniform": lambda: np.random.rand(3),
    "one normal": lambda: np.random.randn(),
    "two normals": lambda: np.random.randn(2),
    "seed": lambda: np.random.seed(5),
    "python and torch": lambda: (random.random(), torch.rand(2)),
    "many": lambda: np.random.rand(700),
}


@pytest.mark.parametrize("before", [0, 1, 2])  # one normal drawn leaves a second one held back
@pytest.mark.parametrize("inside", INSIDE)
def test_every_generator_is_as_before(inside: str, before: int) -> None:
    kept = Generators()
    for _ in range(3):
        np.random.seed(0), random.seed(0), torch.manual_seed(0)
        np.random.randn(before)
        expected = draws()
        np.random.seed(0), random.seed(0), torch.manual_seed(0)
        np.random.randn(before)
        with kept.kept(CPU):
            INSIDE[inside]()
        with kept.kept(CPU):
            INSIDE[inside]()
        assert draws() == expected


def test_draws_between_two_passes_are_not_undone() -> None:
    kept = Generators()
    np.random.seed(0)
    with kept.kept(CPU):
        np.random.rand()
    first = np.random.rand()
    with kept.kept(CPU):
        np.random.rand()
    assert np.random.rand() != first


def test_a_held_back_normal_that_is_used_up_inside_comes_back() -> None:
    kept = Generators()
    np.random.seed(0)
    expected = np.random.randn(2)[1]
    np.random.seed(0)
    np.random.randn()
    for _ in range(2):
        with kept.kept(CPU):
            np.random.randn()
    assert np.random.randn() == expected


def test_another_kind_of_generator_is_read_every_time() -> None:
    np.random.set_bit_generator(np.random.PCG64(1))
    kept, expected = Generators(), np.random.PCG64(1).random_raw(2).tolist()
    for _ in range(2):
        with kept.kept(CPU):
            np.random.rand(3)
    assert np.random.get_bit_generator().random_raw(2).tolist() == expected


def test_the_memory_of_this_numpy_shows_its_state() -> None:
    # If this fails, NumPy keeps the state elsewhere: all still works, at 50 microseconds more in every scoring pass.
    np.random.seed(7)
    np.random.rand(5)
    owner, state = np.random.get_bit_generator(), np.random.get_state(legacy=False)
    assert generators._memory_of(owner) == generators._as_memory(state)


def test_a_memory_that_shows_something_else_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "_memory_of", lambda owner: b"the same for ever")
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    kept = Generators()
    for _ in range(2):
        with kept.kept(CPU):
            np.random.rand()
    assert np.random.rand() == expected


def test_an_error_inside_puts_them_back_too() -> None:
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    with pytest.raises(ValueError, match="high"), Generators().kept(CPU):
        np.random.randint(int(np.random.rand()), 0)
    assert np.random.rand() == expected
