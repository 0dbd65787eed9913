"""Take containers apart and build them again around other values, whatever container it is."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import pathlib
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["DESCRIPTIONS", "children_of", "describe", "is_namedtuple", "rebuild"]

DESCRIPTIONS = (
    *(str, bytes, bool, int, float, complex, type(None), np.generic, np.dtype, enum.Enum),
    *(torch.device, torch.dtype, torch.Size, range, slice, type, pathlib.PurePath, datetime.date, datetime.timedelta),
)
"""Values that describe a batch as a whole and go through unchanged."""


def is_namedtuple(part: Any) -> bool:
    """Is this a tuple with field names?"""
    return isinstance(part, tuple) and hasattr(part, "_fields")


def children_of(part: Any) -> list[tuple[str, Any]] | None:
    """The parts of a container with their paths, or ``None`` where it is not one."""
    if isinstance(part, Mapping):
        return [(f"[{key!r}]", part[key]) for key in part]
    if is_namedtuple(part):
        return [(f".{name}", getattr(part, name)) for name in part._fields]
    if isinstance(part, (list, tuple)):
        return [(f"[{position}]", value) for position, value in enumerate(part)]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return [(f".{field.name}", getattr(part, field.name)) for field in dataclasses.fields(part)]
    return None


def rebuild(part: Any, values: list[Any]) -> Any:
    """A container like ``part`` around other values; ``part`` stays as it is."""
    if isinstance(part, MutableMapping):
        rebuilt: Any = copy.copy(part)
        for key, value in zip(list(part), values, strict=True):
            rebuilt[key] = value
        return rebuilt
    if isinstance(part, Mapping):
        make: Any = type(part)
        return make(dict(zip(part, values, strict=True)))
    if is_namedtuple(part):
        return type(part)(*values)
    if isinstance(part, (list, tuple)):
        return type(part)(values)
    rebuilt = copy.copy(part)
    for field, value in zip(dataclasses.fields(part), values, strict=True):
        object.__setattr__(rebuilt, field.name, value)
    return rebuilt


def describe(batch: Any) -> str:
    """Kinds and shapes, for an error message."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return f"{type(batch).__name__} of shape {tuple(batch.shape)}"
    children = children_of(batch)
    if children is None:
        return type(batch).__name__
    inside = ", ".join(f"{key} {describe(child)}" for key, child in children[:6])
    return f"{type(batch).__name__} with {inside or 'nothing in it'}{' ...' if len(children) > 6 else ''}"
