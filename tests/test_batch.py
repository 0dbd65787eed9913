from __future__ import annotations

import collections
import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable
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
PACKED = pack_sequence([torch.ones(2), torch.ones(1)])
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


class Columns:
    """Describes a batch as a whole; its length is not the batch's."""

    def __init__(self, length: int = 2) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


take_rows.register(Columns, lambda batch, index: batch)


def rows_of(make: Callable[[int], Any], kind: type = list) -> tuple[Any, Any]:
    """One value per row, and those that ``INDEX`` takes."""
    return kind(make(row) for row in range(ROWS)), kind(make(row) for row in (2, 0))


def number(value: float) -> torch.Tensor:
    return torch.tensor(float(value))


def boxes(count: int) -> dict[str, torch.Tensor]:
    return {"boxes": torch.ones(count, 4), "labels": torch.ones(count)}


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
    "a shape goes through": (
        {"x": X, "y": Y, "shape": torch.Size([9, 8, 7, 6])},
        {"x": X[INDEX], "y": Y[INDEX], "shape": torch.Size([9, 8, 7, 6])},
    ),
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
    "samples": rows_of(lambda row: (torch.full((5,), row), number(row))),
    "samples in a tuple": rows_of(lambda row: (torch.full((5,), row), number(row)), tuple),
    "samples as long as the batch": rows_of(lambda row: (torch.full((ROWS,), row), torch.ones(ROWS), row)),
    "samples of two columns that agree": rows_of(
        lambda row: {"x": torch.ones(5), "z": torch.ones(5), "y": number(row)}
    ),
    "samples without a number": rows_of(lambda row: (torch.full((3, 2), row), torch.full((1,), row))),
    "samples of several sizes": rows_of(lambda row: (torch.full((row + 1,), row), "name", row)),
    "samples with two views": rows_of(lambda row: ([torch.ones(3), torch.zeros(3)], number(row))),
    "samples of lists": rows_of(lambda row: (torch.full((3,), row), [row, row])),
    "samples of text": rows_of(lambda row: (f"text {row}", row)),
    "samples of text in dicts": rows_of(lambda row: {"question": f"q{row}", "answer": "a"}),
    "samples with names": rows_of(lambda row: Pair(torch.full((3,), row), row)),
    "samples of objects": rows_of(lambda row: Sample(torch.full((3,), row), row)),
    "samples of images and boxes": rows_of(lambda row: (torch.zeros(3, row + 5, 6), boxes(row + 1))),
    "samples in a dict": (
        {"all": [(X[0], k) for k in range(4)], "y": Y},
        {"all": [(X[0], 2), (X[0], 0)], "y": Y[INDEX]},
    ),
    "numbers alone": rows_of(number),
    "two batches": ([(X, Y), (X + 1, Y)], [(X[INDEX], Y[INDEX]), (X[INDEX] + 1, Y[INDEX])]),
    "two batches with names": ([(X, NAMES), (X, NAMES)], [(X[INDEX], ["c", "a"]), (X[INDEX], ["c", "a"])]),
    "two batches with holes": ([(X, None), (Y, None)], [(X[INDEX], None), (Y[INDEX], None)]),
    "two columns of sequences": (
        ([X[0, :k] for k in (1, 2, 3, 1)], [Y[:k] for k in (1, 2, 3, 1)]),
        ([X[0, :3], X[0, :1]], [Y[:3], Y[:1]]),
    ),
    "columns of images that differ in size": (
        (tuple(torch.ones(3, k) for k in (5, 6, 7, 8)), tuple(torch.zeros(3, k) for k in (5, 6, 7, 8))),
        ((torch.ones(3, 7), torch.ones(3, 5)), (torch.zeros(3, 7), torch.zeros(3, 5))),
    ),
    "two batches of columns alike": (
        [(X, X[:, :1]), (X, X[:, :2])],
        [(X[INDEX], X[INDEX, :1]), (X[INDEX], X[INDEX, :2])],
    ),
    "two batches of one loader each": (
        ([X, X[:, :1]], [X, X[:, :2]]),
        ([X[INDEX], X[INDEX, :1]], [X[INDEX], X[INDEX, :2]]),
    ),
    "two columns of sequences, of two tuples": (
        [tuple(X[0, :k] for k in (1, 2, 3, 1)), tuple(Y[:k] for k in (2, 2, 4, 1))],
        [(X[0, :3], X[0, :1]), (Y[:4], Y[:2])],
    ),
    "two batches, one with more columns": ([(X, 1.0), (X, 1.0, Y)], [(X[INDEX], 1.0), (X[INDEX], 1.0, Y[INDEX])]),
    "two batches, one with a number": ([(X, 1.0), (X, Y)], [(X[INDEX], 1.0), (X[INDEX], Y[INDEX])]),
    "views alone": ({"views": [X, X + 1]}, {"views": [X[INDEX], X[INDEX] + 1]}),
    "one view in a list": (([X],), ([X[INDEX]],)),
    "two columns of numbers": (([number(k) for k in range(4)],) * 2, ([number(2), number(0)],) * 2),
    "two columns of strings": ((NAMES, tuple(NAMES)), (["c", "a"], ("c", "a"))),
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


@pytest.mark.parametrize("sample", [(X[0], number(1)), {"x": X[0], "y": 1}, (torch.ones(3, 2), torch.ones(1))])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_samples_are_counted_whatever_their_number(sample: Any, count: int) -> None:
    assert count_rows([sample] * count) == count


@dataclasses.dataclass
class Unset:
    x: Any
    later: Any = dataclasses.field(init=False)


class Two(list):
    """A list that is made of two values, and carries something beside them."""

    def __init__(self, one: Any, other: Any) -> None:
        super().__init__([one, other])
        self.kind = "two"


class Fixed(tuple):
    """A tuple that is made of two values."""

    def __new__(cls, one: Any, other: Any) -> Fixed:
        return super().__new__(cls, (one, other))


class Gathered(tuple):
    """A tuple that is made of any number of values."""

    def __new__(cls, *parts: Any) -> Gathered:
        return super().__new__(cls, parts)


def test_a_field_that_was_never_set_stays_so() -> None:
    for made, rows in ((take_rows(Unset(X), INDEX), X[INDEX]), (shallow_copy(Unset(X)), X)):
        assert torch.equal(made.x, rows)
        assert not hasattr(made, "later")


def test_a_list_with_a_constructor_of_its_own() -> None:
    batch = Two(X, Y)
    taken, copied = take_rows(batch, INDEX), shallow_copy(batch)
    assert (type(taken), taken.kind) == (type(copied), copied.kind) == (Two, "two")
    assert torch.equal(taken[0], X[INDEX])
    assert torch.equal(taken[1], Y[INDEX])
    copied.clear()
    assert len(batch) == 2


@pytest.mark.parametrize("kind", [Fixed, Gathered])
def test_a_tuple_with_a_constructor_of_its_own_is_to_be_taught(kind: Any) -> None:
    for call in (lambda: take_rows(kind(X, Y), INDEX), lambda: shallow_copy(kind(X, Y))):
        with pytest.raises(
            BatchFormatError, match=rf"got {kind.__name__}, which .*take_rows.register\({kind.__name__}"
        ):
            call()


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


COLUMNS = Columns()


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"x": X, "columns": COLUMNS}, {"x": X[INDEX], "columns": COLUMNS}),
        ({"a": COLUMNS, "b": COLUMNS, "c": COLUMNS, "x": X}, {"a": COLUMNS, "b": COLUMNS, "c": COLUMNS, "x": X[INDEX]}),
        ([X, COLUMNS], [X[INDEX], COLUMNS]),
        ([COLUMNS, X], [COLUMNS, X[INDEX]]),
        ((X, [COLUMNS, COLUMNS]), (X[INDEX], [COLUMNS, COLUMNS])),
        ({"n": NAMES, "columns": COLUMNS}, {"n": ["c", "a"], "columns": COLUMNS}),
    ],
)
def test_a_length_does_not_object_to_tensors(batch: Any, expected: Any) -> None:
    assert count_rows(batch) == ROWS
    assert equal(take_rows(batch, INDEX), expected)


def test_a_length_counts_where_nothing_else_has_rows_or_it_agrees() -> None:
    assert count_rows({"columns": Columns(7), "t": number(1)}) == 7
    assert count_rows({"x": X, "y": torch.ones(5), "columns": Columns(5)}) == 5


def test_a_taught_type_needs_no_length() -> None:
    class Notes:
        pass

    take_rows.register(Notes, lambda batch, index: batch)
    assert count_rows({"x": X, "notes": Notes()}) == ROWS
    with pytest.raises(
        BatchFormatError, match=r"at least one tensor with a first axis, got Notes.*count_rows.register\(Notes"
    ):
        count_rows(Notes())


def test_several_batches_of_a_taught_type_share_their_rows() -> None:
    class Graphs(Owned):
        pass

    take_rows.register(Graphs, lambda batch, index: Graphs(batch.x[index]))
    for form in ((Graphs(X), Graphs(X)), (Graphs(X), {"note": 1}), {"pair": [Graphs(X), Graphs(X)], "y": Y}):
        assert count_rows(form) == ROWS
    swap, pair = torch.tensor([1, 0]), [Graphs(X[:2]), Graphs(X[2:])]
    for taken in (take_rows({"pair": pair, "y": Y[:2]}, swap)["pair"], take_rows(pair, swap)):
        assert all(torch.equal(one.x, graphs.x[swap]) for one, graphs in zip(taken, pair, strict=True))
    assert count_rows([Graphs(X[:1])] * 3) == 3  # not collated: one graph a row


@pytest.mark.parametrize("kind", [dict, list, tuple, torch.Tensor])
def test_what_is_taught_comes_before_what_is_known(kind: type) -> None:
    spec = importlib.util.find_spec("lightning_select.batch")
    assert spec is not None
    assert spec.loader is not None
    own = importlib.util.module_from_spec(spec)  # a copy, so that no other test meets what is taught here
    spec.loader.exec_module(own)
    batch = {dict: {"x": X}, list: [X], tuple: (X, Y), torch.Tensor: [X]}[kind]
    taken = own.take_rows(batch, INDEX)
    assert equal(taken, take_rows(batch, INDEX))
    own.take_rows.register(kind, lambda part, index: "mine")
    own.count_rows.register(kind, lambda part: 17)
    assert own.count_rows(batch) == 17
    assert own.take_rows(batch, INDEX) == (["mine"] if kind is torch.Tensor else "mine")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, torch.ones(7)), r"must agree on the number of rows, got tuple with \[0\] Tensor of shape \(4, 3\)"),
        ({"x": X, "y": torch.ones(5), "z": torch.ones(6)}, "count_rows.register"),
        ({"x": X, "y": torch.ones(5)}, r"where batch\['y'\] cannot have the 4 rows of other parts.*register\(MyBatch"),
        (Sample(X, torch.ones(5)), r"where batch.y cannot have the 4 rows.*register\(Sample"),
        ({"x": X, "m": np.ones(5), "p": PACKED}, r"where batch\['m'\], batch\['p'\] cannot.*register\(PackedSequence"),
        ({"x": X, "p": PACKED}, r"where batch\['p'\] cannot have the 4 rows of other parts.*register\(PackedSequence"),
        (["a", {"b": 1}], "at least one tensor with a first axis"),
        ([], "at least one tensor with a first axis"),
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


@pytest.mark.filterwarnings("ignore")  # a beta, or a prototype, says torch
@pytest.mark.parametrize("kind", ["sparse_csr", "nested", "jagged"])
def test_a_tensor_of_which_torch_takes_no_rows_is_counted_and_refused(kind: str) -> None:
    parts, layout = [torch.ones(row + 1) for row in range(ROWS)], torch.jagged if kind == "jagged" else torch.strided
    odd = X.to_sparse_csr() if kind == "sparse_csr" else torch.nested.nested_tensor(parts, layout=layout)
    assert count_rows({"x": X, "odd": odd}) == ROWS
    assert count_rows([odd, odd]) == ROWS
    with pytest.raises(BatchFormatError, match=r"batch\['odd'\] must be a dense tensor.*got a (sparse_csr|nested) one"):
        take_rows({"x": X, "odd": odd}, INDEX)


def test_a_packed_sequence_beside_a_tensor_in_a_list() -> None:
    packed = pack_sequence([torch.full((2,), float(row)) for row in range(ROWS)])
    for batch in ([packed, X], {"x": X, "in": [packed, X]}):
        assert count_rows(batch) == ROWS
        taken = take_rows(batch, INDEX)
        first, second = taken["in"] if isinstance(taken, dict) else taken
        assert [one[0].item() for one in unpack_sequence(first)] == [2.0, 0.0]
        assert torch.equal(second, X[INDEX])


def test_an_empty_batch_has_no_rows() -> None:
    assert count_rows((X[:0], Y[:0])) == 0


SAMPLES = st.tuples(st.sampled_from([X[0], X, NAMES, "text"]), st.sampled_from([number(1), 3, "x"]))


@given(SAMPLES, st.lists(st.integers(1, 9), min_size=1, max_size=9), st.sampled_from([list, tuple]), st.randoms())
@settings(max_examples=100)
def test_any_samples_are_rows(leaves: Any, marks: list[int], kind: type, random: Any) -> None:
    batch = [kind([*leaves, torch.full((2,), mark), mark]) for mark in marks]
    index = random.choices(range(len(batch)), k=5)
    assert count_rows(batch) == len(batch)
    assert equal(take_rows(batch, torch.tensor(index)), [batch[position] for position in index])


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
@settings(max_examples=150)
def test_any_nesting_is_cut_part_by_part(inner: Any, order: list[int]) -> None:
    batch = {"x": X, "y": Y, "z": X, "w": Y, "rest": inner}
    taken = take_rows(batch, torch.tensor(order))
    back = take_rows(taken, torch.tensor(order).argsort())
    assert equal(back, batch)
    assert torch.equal(taken["x"], X[torch.tensor(order)])


def test_a_list_that_does_not_change_is_made_anew() -> None:
    class Fixed(list):  # type: ignore[type-arg]
        def __setitem__(self, place: Any, value: Any) -> None:
            raise TypeError("it does not change")

    batch = Fixed([torch.arange(4), torch.arange(4) * 2])
    taken = take_rows(batch, torch.tensor([3, 1]))
    assert type(taken) is Fixed
    assert [part.tolist() for part in taken] == [[3, 1], [6, 2]]
