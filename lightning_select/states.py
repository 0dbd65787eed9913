"""Is what a checkpoint holds what we would have saved? Asked before anything is taken over from it.

A state is compared with one that the object would save now: the same names, kinds and shapes. What then still may be
wrong are numbers, and these each owner checks by its own rules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ConfigurationError
from lightning_select.types import State

__all__ = ["broken_state", "check_range", "check_state", "columns_of", "in_our_kinds", "is_plain"]

_LARGEST = 2**53
"""Whole numbers beyond are none of ours, and neither torch nor a float could hold all of them."""

_COMPARED = frozenset(
    {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.float16, torch.bfloat16, torch.float32, torch.float64}
)
"""Kinds of numbers with which torch can do everything."""


def check_state(
    owner: str,
    state: Any,
    like: Any,
    *,
    loose: Collection[str] = (),
    optional: Collection[str] = (),
    path: str = "state",
) -> None:
    """Compare a state with one of ours.

    Args:
        owner: Who is to take it over, in errors.
        state: What the checkpoint holds.
        like: A state of the same owner. Tensors are compared by number kind and shape, numbers by kind, containers by
            what is in them.
        loose: Names (keys at any depth) under which a tensor may have any size and a number may be ``None``; their
            owner looks at them.
        optional: Names that may be absent on either side.
        path: Where in the state this is, in errors.

    Raises:
        ConfigurationError: They differ.
    """
    free = path.rpartition(".")[2] in loose
    if isinstance(like, Mapping):
        if not isinstance(state, Mapping) or not set(state) ^ set(like) <= set(optional):
            got = ", ".join(map(str, state)) or "nothing" if isinstance(state, Mapping) else _told(state)
            raise broken_state(owner, path, f"hold {', '.join(map(str, like)) or 'nothing'}", got)
        for name in (name for name in like if name in state):
            check_state(owner, state[name], like[name], loose=loose, optional=optional, path=f"{path}.{name}")
    elif isinstance(like, (list, tuple)):
        if not isinstance(state, (list, tuple)) or len(state) != len(like):
            raise broken_state(owner, path, f"be a list of {len(like)}", _told(state))
        for one, value in zip(state, like, strict=True):
            check_state(owner, one, value, loose=loose, optional=optional, path=path)
    elif isinstance(like, Tensor):
        _check_tensor(owner, state, like, free, path)
    elif not (free and state is None) and not _same_kind(state, 0 if free and like is None else like):
        raise broken_state(owner, path, f"be of the kind of {like!r}", _told(state))
    elif isinstance(state, int) and abs(state) > _LARGEST:
        raise broken_state(owner, path, "be a number of sensible size", str(state)[:20])


def in_our_kinds(owner: str, state: Any, like: Any, path: str = "state", *, exactly: bool = False) -> Any:
    """A state whose tensors are of the number kinds of ours, so that none is checked in one kind and used in another.

    Args:
        owner: Who is to take it over, in errors.
        state: What the checkpoint holds.
        like: A state of the same owner; what it lacks stays as it is.
        path: Where in the state this is, in errors.
        exactly: Leave a tensor as it is that would lose something? Kinds may change while a sampler learns.

    Raises:
        ConfigurationError: A number is too large for its kind.
    """
    if isinstance(state, Mapping) and isinstance(like, Mapping):
        pairs = ((name, one, like.get(name)) for name, one in state.items())
        return {name: in_our_kinds(owner, one, mine, f"{path}.{name}", exactly=exactly) for name, one, mine in pairs}
    if isinstance(state, (list, tuple)) and isinstance(like, (list, tuple)):
        entries = zip(state, like, strict=True)
        found = [in_our_kinds(owner, one, mine, path, exactly=exactly) for one, mine in entries]
        return found if isinstance(state, list) else tuple(found)
    if not isinstance(state, Tensor) or not isinstance(like, Tensor) or state.dtype == like.dtype:
        return state
    ours = state.to(like.dtype)
    if exactly:
        return ours if bool(((ours.to(state.dtype) == state) | state.isnan()).all()) else state
    lost = ours.isinf() & state.isfinite() if ours.is_floating_point() else ours != state
    if bool(lost.any()):
        raise broken_state(owner, path, f"hold numbers that fit into {like.dtype}", str(state[lost][0].item()))
    return ours


def check_range(owner: str, name: str, values: Any, low: float, high: float = float("inf")) -> None:
    """Numbers of a state, in a tensor or one, in [low, high].

    Raises:
        ConfigurationError: One is not, or is not finite.
    """
    numbers = values if isinstance(values, Tensor) else torch.tensor([float(values)], dtype=torch.float64)
    wrong = numbers[~((numbers >= low) & (numbers <= high) & numbers.isfinite())]
    if wrong.numel():
        raise broken_state(owner, name, f"be in [{low:g}, {high:g}]", str(wrong[0].item()))


def columns_of(owner: str, state: State, like: State, least: Mapping[str, float]) -> State:
    """Columns of a state in our number kinds, of which none is below its least number; one that is NaN is no bound.

    Raises:
        ConfigurationError: One is, or is not finite.
    """
    columns: State = in_our_kinds(owner, state, like)
    for name, column in columns.items():
        if not math.isnan(least[name]):
            check_range(owner, name, column, least[name])
    return columns


def is_plain(value: Any) -> bool:
    """Is this a tensor on a device whose memory has room for as many numbers as it says it holds?

    One that repeats itself beyond that takes no room in a file, and all there is once it is used. In what order the
    numbers lie, and whether some are the same place of that memory, does not matter.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested:
        return False
    if value.is_quantized or value.device.type == "meta":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def broken_state(owner: str, path: str, rule: str, got: str) -> ConfigurationError:
    """The error for a state that cannot be taken over."""
    return ConfigurationError(
        f"{owner}: {path} of the checkpoint must {rule}, got {got}. It is damaged, or was saved by other settings or "
        "another version: load the weights alone, and start afresh."
    )


def _check_tensor(owner: str, state: Any, like: Tensor, free: bool, path: str) -> None:
    fits = is_plain(state) and (state.dim() == like.dim() if free else state.shape == like.shape)
    if not fits or _kind(state) != _kind(like):
        size = f"{like.dim()} dimensions" if free else f"shape {tuple(like.shape)}"
        raise broken_state(owner, path, f"be a tensor of {_kind(like)} of {size}", _told(state))


def _kind(tensor: Tensor) -> str:
    """In words; what torch cannot compare, such as eight-bit floats, is a kind of its own."""
    if tensor.dtype == torch.bool:
        return "truths"
    if tensor.is_complex():
        return "complex numbers"
    if tensor.dtype not in _COMPARED:
        return str(tensor.dtype)
    return "numbers" if tensor.is_floating_point() else "whole numbers"


def _same_kind(state: Any, like: Any) -> bool:
    if isinstance(like, float):
        return isinstance(state, (int, float)) and not isinstance(state, bool)
    return type(state) is type(like)


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = "of unknown shape" if value.is_nested else f"of shape {tuple(value.shape)}"
        return f"a tensor of {_kind(value)} {shape}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)[:80] if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
