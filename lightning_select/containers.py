"""Take containers apart and build them again around other values, whatever container it is."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import pathlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_select.errors import BatchFormatError
from lightning_select.tensor_rows import TEACH

__all__ = [
    "DESCRIPTIONS",
    "are_samples",
    "axis_of_columns",
    "children_of",
    "describe",
    "is_namedtuple",
    "is_plain",
    "is_sequence",
    "may_be_columns",
    "name_of",
    "rebuild",
    "shape_of",
]

DESCRIPTIONS = (
    *(str, bytes, bool, int, float, complex, type(None), np.generic, np.dtype, enum.Enum),
    *(torch.device, torch.dtype, torch.Size, range, slice, type, pathlib.PurePath, datetime.date, datetime.timedelta),
)
"""Values that describe a batch as a whole and go through unchanged."""


_NUMBERS = (bool, int, float, complex, np.number, np.bool_)

OwnRows = Callable[[Any], tuple[int | None, ...]]
"""From a tensor, or what counts as one, to its first axis (``None`` where it has none); to nothing for other parts."""


def is_namedtuple(part: Any) -> bool:
    """Is this a tuple with field names?"""
    return isinstance(part, tuple) and hasattr(part, "_fields")


def is_sequence(part: Any) -> bool:
    """Is this a list, or a tuple without field names that is no shape?"""
    return isinstance(part, (list, tuple)) and not is_namedtuple(part) and not isinstance(part, torch.Size)


def is_plain(part: Any) -> bool:
    """Is this a list of strings only, of numbers only, or of tensors without an axis only?"""
    if not is_sequence(part):
        return False
    examples = {type(value): value for value in part if value is not None}
    if any(issubclass(kind, (Tensor, np.ndarray)) for kind in examples):
        return len(examples) == 1 and not any(value.ndim for value in part if value is not None)
    kinds = {float if isinstance(value, _NUMBERS) else kind for kind, value in examples.items()}
    return len(kinds) <= 1 and all(isinstance(value, DESCRIPTIONS) for value in examples.values())


def children_of(part: Any) -> list[tuple[str, Any]] | None:
    """The parts of a container with their paths, or ``None`` where it is not one."""
    if isinstance(part, Mapping):
        return [(f"[{key!r}]", part[key]) for key in part]
    if is_namedtuple(part):
        return [(f".{name}", getattr(part, name)) for name in part._fields]
    if isinstance(part, (list, tuple)):
        return [(f"[{position}]", value) for position, value in enumerate(part)]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return [(f".{name}", getattr(part, name)) for name in _fields_set(part)]
    return None


def rebuild(part: Any, values: list[Any]) -> Any:
    """A container like ``part`` around other values; ``part`` stays as it is.

    Raises:
        BatchFormatError: It is a sequence of a class that cannot be made of them.
    """
    if type(part) in (list, tuple):
        return type(part)(values)
    if isinstance(part, MutableMapping):
        rebuilt: Any = copy.copy(part)
        for key, value in zip(list(part), values, strict=True):
            rebuilt[key] = value
        return rebuilt
    if isinstance(part, Mapping):
        make: Any = type(part)
        return make(dict(zip(part, values, strict=True)))
    if isinstance(part, (list, tuple)):
        return _sequence_like(part, values)
    rebuilt = copy.copy(part)
    for name, value in zip(_fields_set(part), values, strict=True):
        object.__setattr__(rebuilt, name, value)
    return rebuilt


def _sequence_like(part: Any, values: list[Any]) -> Any:
    """A sequence of the class of ``part``, whose constructor may want something else, or make something else of it."""
    kind, why = type(part), "makes other values of them"
    try:
        if isinstance(part, list):  # with what it carries beside its values, and past its constructor
            rebuilt: Any = _refilled(part, values)
        else:
            rebuilt = kind(*values) if is_namedtuple(part) else kind(values)
        if len(rebuilt) == len(values) and all(one is other for one, other in zip(rebuilt, values, strict=True)):
            return rebuilt
    except Exception as error:  # whatever a class raises for what it does not expect
        why = f"says: {error}"
    raise BatchFormatError(
        f"A sequence in a batch must be of a class that can be made of its values, got {kind.__name__}, which {why}. "
        f"Teach it in one line: {TEACH.format(kind.__name__)}."
    )


def _refilled(part: list[Any], values: list[Any]) -> Any:
    rebuilt = copy.copy(part)
    try:
        rebuilt[:] = values
    except TypeError:  # one that does not change is made anew
        return type(part)(values)
    return rebuilt


def _fields_set(part: Any) -> list[str]:
    """The fields of a dataclass that have a value; those that no constructor sets may lack one."""
    return [field.name for field in dataclasses.fields(part) if hasattr(part, field.name)]


def describe(batch: Any) -> str:
    """Kinds and shapes, for an error message."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return f"{type(batch).__name__} of shape {shape_of(batch)}"
    children = children_of(batch)
    if children is None:
        return type(batch).__name__
    inside = ", ".join(f"{key} {describe(child)}" for key, child in children[:6])
    return f"{type(batch).__name__} with {inside or 'nothing in it'}{' ...' if len(children) > 6 else ''}"


def shape_of(part: Any) -> tuple[Any, ...]:
    """The shape of a tensor or an array; of a nested tensor, which may have none, what is known of it; else nothing."""
    if getattr(part, "is_nested", False):
        return (part.size(0), *["?"] * (part.dim() - 1))
    return tuple(getattr(part, "shape", ()))


def are_samples(batch: Any, own_rows: OwnRows) -> bool:
    """Is this a list of samples that nobody collated, each of one structure?

    A sample shows by what no batch of its own would have: a value without a first axis, or values whose first axes
    differ among themselves. The latter could be columns of sequences too, so the samples must agree with each other and
    come as ``collate_fn=list`` gives them (a list of tuples), or must hold mappings, as columns do not.
    """
    if not is_sequence(batch) or len({type(value) for value in batch}) != 1:
        return False
    if is_plain(batch) or own_rows(batch[0]):
        return is_plain(batch)
    samples = [dict(_axes(value, own_rows)) for value in batch]
    first = samples[0]
    lacking = [{path for path, axis in sample.items() if axis is None} for sample in samples]
    if any(sample.keys() != first.keys() for sample in samples) or any(paths != lacking[0] for paths in lacking):
        return False
    if lacking[0]:
        return True
    uneven = sum(len(set(sample.values())) > 1 for sample in samples)
    records = any(isinstance(child, Mapping) for _, child in children_of(batch[0]) or ())
    agree = isinstance(batch, list) and not isinstance(batch[0], list) and all(sample == first for sample in samples)
    return 2 * uneven > len(samples) and (records or agree)


def axis_of_columns(batch: Any, own_rows: OwnRows) -> int | None:
    """The one first axis of ``[(a, b), (c, d)]``, several batches of tensors.

    ``None`` for other forms, and for a tuple of tuples: columns of images of several sizes come so from ``zip``.
    """
    inner = {type(part) for part in batch} if is_sequence(batch) else {None}
    if not inner <= {list, tuple} or (isinstance(batch, tuple) and inner == {tuple}):
        return None
    axes = {axis for part in batch for value in part for axis in own_rows(value) or (None,)}
    return axes.pop() if len(axes) == 1 else None


def may_be_columns(part: Any, own_rows: OwnRows) -> bool:
    """Might this list hold columns (two views of the rows, images and their labels), rather than one value per row?

    Values of several sizes that are otherwise alike are those of rows.
    """
    axes = {None} if is_plain(part) else {axis for value in part for axis in own_rows(value) or (None,)}
    if len(axes) > 1 or axes & {None, 1}:
        return False
    kinds = {(v.ndim, v.dtype) if isinstance(v, (Tensor, np.ndarray)) else type(v) for v in part}
    return len(kinds) != 1 or len({shape_of(value) for value in part}) == 1


def _axes(part: Any, own_rows: OwnRows, path: str = "") -> Iterator[tuple[str, int | None]]:
    """The first axis of every value in a sample, by its path; ``None`` stands for a value without one."""
    axes = (len(part),) if is_plain(part) else own_rows(part)
    if axes:
        yield path, axes[0]
        return
    children = children_of(part)
    if children is None and part is not None:
        yield path, None
    for key, child in children or ():
        yield from _axes(child, own_rows, f"{path}{key}")


def name_of(*parts: Any) -> str:
    """The name of the first type that is somebody's own, for an error message that asks to teach it."""
    known = (dict, list, tuple, Tensor, np.ndarray, *DESCRIPTIONS)
    return next((type(part).__name__ for part in parts if type(part) not in known), "MyBatch")
