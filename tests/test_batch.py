from __future__ import annotations

import collections
import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from lightning_select.batch import count_rows, shallow_copy, take_rows, tensors_of
from lightning_select.errors import BatchFormatError

ROWS = 4
X = torch.arange(12.0).reshape(ROWS, 3)
Y = torch.arange(ROWS)
NAMES = ["a", "b", "c", "d"]
INDEX = torch.tensor([2, 0])
Pair = collections.namedtuple("Pair", ["x", "y"])


@dataclasses.dataclass(frozen=True)
class Sample:
    x: Any
    y: Any = "whole"
    note: Any = dataclasses.field(default=3, init=False)


class Encoding(collections.UserDict):
    """Like a transformers BatchEncoding: a UserDict with attributes of its own."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.kind = "encoding"


class Owned:
    """A type that nobody taught us."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)


FORMS = {
    "tensor": (X, X[INDEX]),
    "tuple": ((X, Y), (X[INDEX], Y[INDEX])),
    "list": ([X, Y], [X[INDEX], Y[INDEX]]),
    "dict": ({"x": X, "y": Y}, {"x": X[INDEX], "y": Y[INDEX]}),
    "namedtuple": (Pair(X, Y), Pair(X[INDEX], Y[INDEX])),
    "dataclass": (Sample(X, Y), Sample(X[INDEX], Y[INDEX])),
    "user dict": (Encoding({"x": X, "names": NAMES}), Encoding({"x": X[INDEX], "names": ["c", "a"]})),
    "strings beside tensors": ((X, NAMES), (X[INDEX], ["c", "a"])),
    "tuple of strings": ((X, tuple(NAMES)), (X[INDEX], ("c", "a"))),
    "numbers": ({"x": X, "n": [1, 2, 3, 4]}, {"x": X[INDEX], "n": [3, 1]}),
    "numpy": ({"x": X.numpy(), "y": Y}, {"x": X.numpy()[[2, 0]], "y": Y[INDEX]}),
    "two views": (([X, X + 1], Y), ([X[INDEX], X[INDEX] + 1], Y[INDEX])),
    "deep": ({"a": [(X, {"b": Pair(Y, None)})], "c": 1.5}, {"a": [(X[INDEX], {"b": Pair(Y[INDEX], None)})], "c": 1.5}),
    "class weights go through": ((X, Y, torch.ones(10)), (X[INDEX], Y[INDEX], torch.ones(10))),
    "scalars go through": ({"x": X, "t": torch.tensor(2.0), "n": 4, "p": pathlib.Path("f")},) * 2,
    "strings alone": (NAMES, ["c", "a"]),
    "images of several sizes": (
        (
            tuple(torch.full((3, k, k), float(k)) for k in range(ROWS)),
            tuple({"boxes": torch.ones(k, 4)} for k in range(ROWS)),
        ),
        (tuple(torch.full((3, k, k), float(k)) for k in (2, 0)), tuple({"boxes": torch.ones(k, 4)} for k in (2, 0))),
    ),
    "one dict per row": (
        [{"x": torch.full((5,), float(k)), "y": torch.tensor(k)} for k in range(ROWS)],
        [{"x": torch.full((5,), float(k)), "y": torch.tensor(k)} for k in (2, 0)],
    ),
}
FORMS["scalars go through"] = (
    FORMS["scalars go through"][0],
    {"x": X[INDEX], "t": torch.tensor(2.0), "n": 4, "p": pathlib.Path("f")},
)


def equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, (dict, collections.UserDict)):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    if dataclasses.is_dataclass(one):
        return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return one == other


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_counted_and_taken(form: str) -> None:
    batch, expected = FORMS[form]
    before = str(batch)
    assert count_rows(batch) == ROWS
    assert equal(take_rows(batch, INDEX), expected)
    assert str(batch) == before


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_shares_tensors_and_no_container(form: str) -> None:
    batch, _ = FORMS[form]
    copy = shallow_copy(batch)
    assert equal(copy, batch)
    assert all(a is b for a, b in zip(tensors_of(batch), tensors_of(copy), strict=True))
    if isinstance(batch, (dict, list, collections.UserDict)):
        copy.clear()
        assert len(batch)


def test_what_a_user_dict_carries_beside_its_data_stays() -> None:
    assert take_rows(FORMS["user dict"][0], INDEX).kind == "encoding"


def test_packed_sequences() -> None:
    rows = [torch.arange(float(length)) + 1 for length in (3, 5, 1, 2)]
    packed = pack_sequence(rows, enforce_sorted=False)
    assert count_rows((packed, Y)) == ROWS
    taken, _ = take_rows((packed, Y), INDEX)
    assert all(torch.equal(a, rows[i]) for a, i in zip(unpack_sequence(taken), (2, 0), strict=True))


def test_a_type_is_taught_in_one_line() -> None:
    class Mine(Owned):
        pass

    take_rows.register(Mine, lambda batch, index: Mine(batch.x[index]))
    assert count_rows(Mine(X)) == ROWS
    taken = take_rows({"inside": Mine(X), "y": Y}, INDEX)
    assert torch.equal(taken["inside"].x, X[INDEX])
    assert torch.equal(take_rows(Mine(X), INDEX).x, X[INDEX])


def test_a_type_may_count_its_rows_in_its_own_way() -> None:
    class Graphs(Owned):
        def __len__(self) -> int:
            return 99

    take_rows.register(Graphs, lambda batch, index: Graphs(batch.x[index]))
    count_rows.register(Graphs, lambda batch: len(batch.x))
    assert count_rows((Graphs(X), Y)) == ROWS


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, torch.ones(7)), r"must agree on the number of rows, got tuple with \[0\] Tensor of shape \(4, 3\)"),
        ({"x": X, "y": torch.ones(5), "z": torch.ones(6)}, "count_rows.register"),
        ({}, "must hold at least one tensor with a first axis, got dict with nothing in it"),
        (torch.tensor(1.0), r"got Tensor of shape \(\)"),
        (3, "got int"),
        (Owned(X), "take_rows.register\\(Owned"),
    ],
)
def test_what_cannot_be_counted_says_what_it_is(batch: Any, message: str) -> None:
    with pytest.raises(BatchFormatError, match=message):
        count_rows(batch)


def test_what_cannot_be_cut_says_where_it_is() -> None:
    with pytest.raises(
        BatchFormatError, match=r"batch\['meta'\]\[0\] must be of a type whose rows can be taken, got .*Owned"
    ):
        take_rows({"x": X, "y": Y, "meta": [Owned(X)]}, INDEX)


def test_an_empty_batch_has_no_rows() -> None:
    assert count_rows((X[:0], Y[:0])) == 0


LEAVES = st.sampled_from([X, Y, X.double(), NAMES, tuple(NAMES), None, "note", 2.5, torch.tensor(1)])
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Sample, inner, inner),
        st.builds(lambda a, b: [a, b], inner, inner),
    ),
    max_leaves=8,
)


@given(NESTED, st.permutations(range(ROWS)))
@settings(max_examples=150, deadline=None)
def test_any_nesting_is_cut_part_by_part(inner: Any, order: list[int]) -> None:
    batch = {"x": X, "y": Y, "z": X, "w": Y, "rest": inner}
    taken = take_rows(batch, torch.tensor(order))
    back = take_rows(taken, torch.tensor(order).argsort())
    assert equal(back, batch)
    assert torch.equal(taken["x"], X[torch.tensor(order)])
