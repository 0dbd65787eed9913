"""A state is compared with one of ours before anything is taken over."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_select.errors import ConfigurationError
from lightning_select.states import check_range, check_state, columns_of, in_our_kinds

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
    columns = {"a": torch.tensor([0, 1]), "b": torch.tensor([-5])}
    assert columns_of("Me", columns, columns, {"a": 0, "b": float("nan")}) == columns
    for wrong in (-1, math.nan, math.inf, torch.tensor([1.0, -0.5]), torch.tensor([math.nan])):
        with pytest.raises(ConfigurationError, match=r"Me: x of the checkpoint must be in \[0, 9\], got"):
            check_range("Me", "x", wrong, 0, 9)
    with pytest.raises(ConfigurationError, match="Me: a of the checkpoint"):
        columns_of("Me", {"a": torch.tensor([-1])}, columns, {"a": 0})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.tensor([2**31]), torch.int32),
        (torch.tensor([2**32]), torch.int32),
        (torch.tensor([-1]), torch.uint8),
        (torch.tensor([1.0, 3.5e38], dtype=torch.float64), torch.float32),
    ],
    ids=str,
)
def test_a_number_too_large_for_its_kind_is_refused(value: torch.Tensor, kind: torch.dtype) -> None:
    with pytest.raises(ConfigurationError, match=r"Me: state\.a\.b of the checkpoint must hold numbers that fit into"):
        in_our_kinds("Me", {"a": {"b": value}}, {"a": {"b": torch.zeros(1, dtype=kind)}})


def test_other_kinds_of_numbers_become_ours() -> None:
    state = {
        "a": [torch.tensor([3.0, float("inf")], dtype=torch.bfloat16), 7],
        "b": torch.tensor([255], dtype=torch.uint8),
    }
    found = in_our_kinds("Me", state, {"a": [torch.zeros(5), 0], "b": torch.zeros(1, dtype=torch.int32), "c": 1})
    assert found["a"][0].dtype == torch.float32
    assert found["a"][0].tolist() == [3.0, float("inf")]
    assert (found["b"].dtype, found["b"].tolist(), found["a"][1]) == (torch.int32, [255], 7)
    assert set(found) == {"a", "b"}


@pytest.mark.parametrize(
    ("value", "like"),
    [
        (torch.tensor([0.1, float("nan")], dtype=torch.float64), torch.zeros(2)),
        (torch.tensor([300]), torch.zeros(1, dtype=torch.uint8)),
        (torch.tensor([0.5]), torch.zeros(1, dtype=torch.int64)),
    ],
)
def test_what_would_lose_something_may_stay_as_it_is(value: torch.Tensor, like: torch.Tensor) -> None:
    assert in_our_kinds("Me", value, like, exactly=True) is value


def test_what_loses_nothing_is_brought_to_our_kinds() -> None:
    state = {"a": (torch.tensor([0.5, float("nan")], dtype=torch.bfloat16), 3)}
    found = in_our_kinds("Me", state, {"a": (torch.zeros(2), 1)}, exactly=True)
    assert type(found["a"]) is tuple
    assert found["a"][0].dtype == torch.float32
    assert found["a"][0].tolist()[0] == 0.5
