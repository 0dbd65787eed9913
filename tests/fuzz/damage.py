"""States as a checkpoint might hold them that was cut, edited, or written by somebody else."""

from __future__ import annotations

import contextlib
import copy
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

__all__ = ["damaged", "in_bounds"]

NUMBERS = (0, 1, -1, 2, 7, -(2**40), 2**31, 2**62, 2**70, 10**400, True, 0.5, float("nan"), float("inf"), -1e300)
OTHERS = ("text", "", None, b"bytes", [], {}, (1, 2), [None], {"a": 1}, torch.zeros(3), torch.tensor(2), 1j)


@st.composite
def damaged(draw: Any, state: Any) -> Any:
    """The state with some places changed."""
    spoilt = copy.deepcopy(state)
    for _ in range(draw(st.integers(1, 3))):
        spoilt = _change(draw, spoilt)
    return spoilt


def _change(draw: Any, state: Any) -> Any:
    """Go down to some place, and change what is there."""
    inside = _children(state)
    if inside and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(inside))
        if isinstance(state, tuple):
            return tuple(_change(draw, one) if place == key else one for place, one in enumerate(state))
        state[key] = _change(draw, state[key])
        return state
    if isinstance(state, dict):
        return _change_mapping(draw, state)
    if isinstance(state, list):
        kind = draw(st.sampled_from(["shorter", "longer", "other"]))
        return state[:-1] if kind == "shorter" else [*state, *state[:1], 0] if kind == "longer" else _other(draw)
    if isinstance(state, Tensor):
        odd = state.layout != torch.strided or state.numel() > 10**6
        return _other(draw) if odd else _change_tensor(draw, state)
    return draw(st.sampled_from(NUMBERS)) if draw(st.booleans()) else _other(draw)


def _children(state: Any) -> list[Any]:
    return (
        list(state) if isinstance(state, dict) else list(range(len(state))) if isinstance(state, (list, tuple)) else []
    )


def _other(draw: Any) -> Any:
    return copy.deepcopy(draw(st.sampled_from(OTHERS)))


def _change_mapping(draw: Any, state: dict[Any, Any]) -> Any:
    kind = draw(st.sampled_from(["drop", "add", "rename", "other"]))
    if kind == "other" or (not state and kind != "add"):
        return _other(draw)
    if kind == "add":
        return {**state, draw(st.sampled_from(["new", 3, ""])): _other(draw)}
    key = draw(st.sampled_from(list(state)))
    value = state.pop(key)
    return state if kind == "drop" else {**state, f"{key}_": value}


def _change_tensor(draw: Any, state: Tensor) -> Any:
    changes: dict[str, Callable[[], Any]] = {
        "shorter": lambda: state[:-1] if state.dim() else state.reshape(1),
        "longer": lambda: torch.cat([state, state]) if state.dim() else state.repeat(3),
        "one": lambda: state.flatten()[:1],
        "deeper": lambda: state.unsqueeze(0),
        "stretched": lambda: torch.zeros(1, dtype=state.dtype).expand(2**33),
        "floats": lambda: state.double(),
        "halves": lambda: state.half(),
        "whole": lambda: state.nan_to_num().long() if state.is_floating_point() else state.long(),
        "truths": lambda: state.bool(),
        "complex": lambda: state.to(torch.complex64),
        "sparse": lambda: state.to_sparse(),
        "list": lambda: state.tolist(),
        "other": lambda: _other(draw),
    }
    if state.numel() and draw(st.booleans()):
        return _with_values(draw, state.clone())
    return changes[draw(st.sampled_from(sorted(changes)))]()


def _with_values(draw: Any, state: Tensor) -> Tensor:
    """Some or all of its numbers replaced."""
    whole = not state.is_floating_point() and not state.is_complex()
    values = (-1, -5, 0, 1, 10**6, 2**62, -(2**62)) if whole else (-1.0, 0.0, 1e30, -1e30, *map(float, ("nan", "inf")))
    value = draw(st.sampled_from(values))
    if whole and state.dtype != torch.bool:
        limits = torch.iinfo(state.dtype)
        value = min(max(value, limits.min), limits.max)
    elif state.dtype == torch.float16 and abs(value) == 1e30:
        value /= 1e26
    flat = state.view(-1)
    if draw(st.booleans()):
        flat.fill_(value)
    else:
        flat[draw(st.integers(0, flat.numel() - 1))] = value
    return state


@contextlib.contextmanager
def in_bounds(seconds: float = 30.0, gigabytes: float = 4.0) -> Iterator[None]:
    """No endless loop, and no allocation of more than that."""

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds:g} s")

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits, before = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (held + int(gigabytes * 2**30), limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)
