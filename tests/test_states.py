"""A state is compared with one of ours before anything is taken over."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_select.errors import ConfigurationError
from lightning_select.states import check_least, check_range, check_state

OURS = {
    "weights": torch.zeros(3),
    "counts": torch.zeros(3, dtype=torch.int64),
    "place": [1, 2],
    "inner": {"name": "x", "on": True},
    "mean": 0.5,
}


def test_one_of_ours_passes() -> None:
    check_state("Me", OURS, OURS)
    check_state("Me", {**OURS, "mean": 3, "weights": torch.ones(3, dtype=torch.float64)}, OURS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weights": torch.zeros(4)},
            r"Me: state.weights of the checkpoint must be a tensor of numbers of shape \(3,\)",
        ),
        ({"weights": torch.zeros(1)}, r"got a tensor of numbers of shape \(1,\)"),
        ({"weights": torch.zeros(3, dtype=torch.int64)}, "got a tensor of whole numbers"),
        ({"weights": torch.zeros(3, dtype=torch.bool)}, "got a tensor of truths"),
        ({"weights": torch.zeros(3, dtype=torch.complex64)}, "got a tensor of complex numbers"),
        ({"weights": torch.zeros(3).to(torch.float8_e4m3fn)}, "got a tensor of torch.float8_e4m3fn"),
        ({"counts": torch.zeros(3, dtype=torch.uint16)}, "got a tensor of torch.uint16"),
        ({"counts": torch.zeros(3, dtype=torch.uint64)}, "got a tensor of torch.uint64"),
        ({"weights": torch.zeros(1).expand(3)}, "state.weights"),
        ({"weights": torch.zeros(3).to_sparse()}, "state.weights"),
        ({"weights": torch.zeros(3, device="meta")}, "state.weights"),
        ({"weights": [0.0, 0.0, 0.0]}, "got a list of 3"),
        ({"place": [1]}, "state.place of the checkpoint must be a list of 2, got a list of 1"),
        ({"place": [1, None]}, "state.place of the checkpoint must be of the kind of 2, got None"),
        ({"place": [1, True]}, "got True"),
        ({"place": [1, 2**60]}, "must be a number of sensible size"),
        ({"place": "12"}, "must be a list of 2, got '12'"),
        ({"inner": {"name": "x"}}, "state.inner of the checkpoint must hold name, on, got name"),
        ({"inner": {"name": "x", "on": True, "more": 1}}, "got name, on, more"),
        ({"inner": {"name": 3, "on": True}}, "state.inner.name of the checkpoint must be of the kind of 'x', got 3"),
        ({"inner": None}, "must hold name, on, got None"),
        ({"mean": True}, "got True"),
        ({"mean": b"x"}, "got a bytes"),
    ],
)
def test_any_other_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_state("Me", OURS | change, OURS)


def test_what_is_loose_may_have_any_size_and_what_is_optional_may_be_absent() -> None:
    loose = {"weights", "place"}
    for change in ({"weights": torch.zeros(9)}, {"place": [None, 3]}):
        check_state("Me", OURS | change, OURS, loose=loose)
    unknown = {**OURS, "place": [None, 2]}
    check_state("Me", OURS, unknown, loose=loose)
    for wrong in ({"weights": torch.zeros(3, 1)}, {"weights": torch.zeros(1).expand(2**40)}, {"place": ["a", 2]}):
        with pytest.raises(ConfigurationError, match="of the checkpoint must be"):
            check_state("Me", OURS | wrong, unknown, loose=loose)
    check_state("Me", {name: value for name, value in OURS.items() if name != "mean"}, OURS, optional={"mean"})
    with pytest.raises(ConfigurationError, match="must hold"):
        check_state("Me", {name: value for name, value in OURS.items() if name != "mean"}, OURS, optional={"place"})


def test_ranges() -> None:
    check_range("Me", "x", torch.tensor([]), 0)
    check_range("Me", "x", 3, 0, 3)
    check_least("Me", {"a": torch.tensor([0, 1]), "b": torch.tensor([-5])}, {"a": 0, "c": 7})
    for wrong in (-1, math.nan, math.inf, torch.tensor([1.0, -0.5]), torch.tensor([math.nan])):
        with pytest.raises(ConfigurationError, match=r"Me: x of the checkpoint must be in \[0, 9\], got"):
            check_range("Me", "x", wrong, 0, 9)
    with pytest.raises(ConfigurationError, match="Me: a of the checkpoint"):
        check_least("Me", {"a": torch.tensor([-1])}, {"a": 0})
