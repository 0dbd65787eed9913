"""Batches of any form, each with what becomes of it when rows are taken, written down while it is made."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import math
import pathlib
import warnings
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

__all__ = ["Made", "batches", "oddities", "same"]

Pair = collections.namedtuple("Pair", ["first", "second"])


@dataclasses.dataclass
class Record:
    first: Any
    second: Any
    note: str = "a record"


class Own(dict):
    """A mapping of somebody's own."""


@dataclasses.dataclass
class Made:
    """A batch, and the same with the rows of ``index`` only, as a plain loop over rows made it."""

    batch: Any
    taken: Any
    columns: int
    """How many parts have rows."""


DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
WHOLE = st.sampled_from(
    [
        *(None, "text", b"bytes", 3, 2.5, True, 1j, torch.float32, torch.Size([2]), pathlib.Path("a"), range(3)),
        *(datetime.date(2020, 1, 1), np.float32(1.5), torch.device("cpu"), slice(1)),
    ]
)


@st.composite
def columns(draw: Any, rows: int, index: list[int]) -> Made:
    """One part with rows, in one of the forms that are understood without help."""
    kind = draw(st.sampled_from(["tensor", "numpy", "strings", "numbers", "scalars", "objects"]))
    as_type = draw(st.sampled_from([list, tuple]))
    if kind == "tensor":
        shape = (rows, *draw(st.lists(st.integers(0, 3), max_size=3)))
        dtype = draw(st.sampled_from(DTYPES))
        values = torch.arange(math.prod(shape)).reshape(shape).remainder(97).to(dtype)
        if draw(st.booleans()) and values.dim() > 1:
            values = values.transpose(-1, 0).contiguous().transpose(-1, 0)  # not contiguous
        rowwise = [values[row] for row in index]
        return Made(values, torch.stack(rowwise) if rowwise else values[:0], 1)
    if kind == "numpy":
        shape = (rows, *draw(st.lists(st.integers(0, 3), max_size=2)))
        dtype = draw(st.sampled_from(["float32", "int64", "bool", "S3", "U2", "object", "datetime64[D]"]))
        array = np.ones(shape, dtype=np.int64).cumsum(axis=0).astype(dtype)
        rowwise = [array[row] for row in index]
        return Made(array, np.stack(rowwise).astype(dtype) if rowwise else array[:0], 1)
    made = {
        "strings": [f"row {row}" for row in range(rows)],
        "numbers": [row * 1.5 for row in range(rows)],
        "scalars": [torch.tensor(float(row)) for row in range(rows)],
        "objects": [None if row % 3 == 2 else f"row {row}" for row in range(rows)],
    }[kind]
    return Made(as_type(made), as_type(made[row] for row in index), 1)


def holding(parts: list[Made], form: str) -> Made:
    """A container around parts, and the same around what is taken of them."""
    kinds = {
        "dict": lambda values: {f"part {place}": value for place, value in enumerate(values)},
        "own dict": lambda values: Own({f"part {place}": value for place, value in enumerate(values)}),
        "ordered": lambda values: collections.OrderedDict(enumerate(values)),
        "namedtuple": lambda values: Pair(values[0], values[-1]),
        "dataclass": lambda values: Record(values[0], values[-1]),
    }
    make: Any = kinds[form]
    used = [parts[0], parts[-1]] if form in ("namedtuple", "dataclass") else parts
    return Made(make([one.batch for one in parts]), make([one.taken for one in parts]), sum(o.columns for o in used))


@st.composite
def batches(draw: Any) -> tuple[Made, int, list[int]]:
    """A batch of known form, its rows, and an index into them.

    Two tensors with rows go first, and parts as a whole are of other kinds or lengths, so that it is clear how many
    rows there are.
    """
    rows = draw(st.integers(1, 6))
    index = draw(st.lists(st.integers(0, rows - 1), max_size=8))
    whole = WHOLE.map(lambda value: Made(value, value, 0))
    leaf = st.one_of(columns(rows, index), columns(rows, index), whole)
    forms = st.sampled_from(["dict", "own dict", "ordered", "namedtuple", "dataclass"])
    inner = st.recursive(
        leaf, lambda part: st.builds(holding, st.lists(part, min_size=1, max_size=3), forms), max_leaves=6
    )
    first = torch.arange(rows * 7.0).reshape(rows, 7)
    parts = [
        Made(value, value[torch.tensor(index, dtype=torch.int64)], 1) for value in (first, first.long().remainder(5))
    ]
    return (
        holding([*parts, *draw(st.lists(inner, max_size=4))], draw(st.sampled_from(["dict", "own dict", "ordered"]))),
        rows,
        index,
    )


def _sparse(rows: int) -> Any:
    return torch.eye(rows, 3).to_sparse()


ODD = {
    "sparse": _sparse,
    "sparse rows": lambda rows: torch.eye(rows, 3).to_sparse_csr(),
    "nested": lambda rows: torch.nested.nested_tensor([torch.ones(row + 1) for row in range(rows)]),
    "jagged": lambda rows: torch.nested.nested_tensor(
        [torch.ones(row + 1) for row in range(rows)], layout=torch.jagged
    ),
    "quantized": lambda rows: torch.quantize_per_tensor(torch.ones(rows, 2), 0.1, 0, torch.quint8),
    "float8": lambda rows: torch.ones(rows, 2).to(torch.float8_e4m3fn),
    "meta": lambda rows: torch.ones(rows, 2, device="meta"),
    "no rows": lambda rows: torch.ones(0, 2),
    "no dimension": lambda rows: torch.tensor(1.0),
    "too many": lambda rows: torch.ones(rows + 1, 2),
    "needs gradient": lambda rows: torch.ones(rows, 2, requires_grad=True),
    "parameter": lambda rows: torch.nn.Parameter(torch.ones(rows, 2)),
    "packed": lambda rows: torch.nn.utils.rnn.pack_sequence([torch.ones(2)] * rows),
    "masked": lambda rows: np.ma.ones((rows, 2)),
    "structured": lambda rows: np.zeros(rows, dtype=[("a", "f4"), ("b", "i8")]),
    "array of nothing": lambda rows: np.float64(3.0) + np.zeros(()),
    "set": lambda rows: set(range(rows)),
    "object": lambda rows: object(),
    "function": lambda rows: len,
    "generator": lambda rows: (row for row in range(rows)),
    "empty list": lambda rows: [],
    "empty dict": lambda rows: {},
    "ragged": lambda rows: [torch.ones(row + 1) for row in range(rows)],
    "ragged arrays": lambda rows: [np.ones(row + 1) for row in range(rows)],
    "list of lists": lambda rows: [[1, 2]] * rows,
    "list of dicts": lambda rows: [{"a": torch.ones(3), "b": 1}] * rows,
    "mixed list": lambda rows: [1, "a", None, torch.ones(2)],
    "string": lambda rows: "x" * rows,
    "bytes": lambda rows: bytes(rows),
    "array of bytes": lambda rows: bytearray(rows),
    "memory": lambda rows: memoryview(b"x" * rows),
    "none": lambda rows: None,
    "subclass": lambda rows: torch.ones(rows, 2).as_subclass(Marked),
}


class Marked(Tensor):
    """A tensor of somebody's own."""


@st.composite
def oddities(draw: Any) -> tuple[Any, int, list[int]]:
    """A batch of anything at all, and an index into it; no callback keeps less than one row."""
    rows = draw(st.integers(1, 5))
    names = draw(st.lists(st.sampled_from(sorted(ODD)), min_size=1, max_size=5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch calls a beta or a prototype is part of the lot
        parts = [ODD[name](rows) for name in names]
    if draw(st.booleans()):
        parts.insert(0, torch.ones(rows, 3))
    form = draw(st.sampled_from(["list", "tuple", "dict", "alone", "deep", "namedtuple", "dataclass"]))
    batch = {
        "list": lambda: parts,
        "tuple": lambda: tuple(parts),
        "dict": lambda: dict(zip("abcdefgh", parts, strict=False)),
        "alone": lambda: parts[0],
        "deep": lambda: [{"in": parts}, parts],
        "namedtuple": lambda: Pair(parts[0], parts[-1]),
        "dataclass": lambda: Record(parts[0], tuple(parts)),
    }[form]()
    return batch, rows, draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=5))


def same(one: Any, other: Any) -> bool:
    """Equal in kind and content, NaN to NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    return bool(one == other)
