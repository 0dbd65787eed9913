"""Run user code with every global random generator put back afterwards."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Generators"]

_KEY_BYTES, _POSITION_BYTES = 624 * 4, 4
"""Size in memory of what a Mersenne Twister is made of."""


@dataclass(frozen=True)
class _Seen:
    """NumPy's generator as it was when its state was last read; no memory where that does not show the state."""

    owner: Any
    memory: bytes | None
    state: dict[str, Any]


class Generators:
    """The global generators of Python, NumPy and torch.

    NumPy takes 25 microseconds to read the state of its generator and as long to set it. So its memory is compared with
    how it was at the last reading, and the state read or set only where it changed. Where NumPy keeps the state in
    another way than we know, it is read and set every time.
    """

    def __init__(self) -> None:
        self._seen: _Seen | None = None

    @contextmanager
    def kept(self, device: torch.device) -> Iterator[None]:
        """Inside, draw as you like; afterwards the generators are as before."""
        python, host = random.getstate(), torch.get_rng_state()
        numpy = self._read_numpy()
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        try:
            yield
        finally:
            random.setstate(python)
            if not self._is_as_seen():
                np.random.set_state(numpy)  # noqa: NPY002 (user code may draw from it)
            torch.set_rng_state(host)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, device)

    def _read_numpy(self) -> dict[str, Any]:
        if self._seen is None or not self._is_as_seen():
            state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
            owner = np.random.get_bit_generator()  # type: ignore[attr-defined]
            memory = _memory_of(owner)
            self._seen = _Seen(owner, memory if memory == _as_memory(state) else None, state)
        return self._seen.state

    def _is_as_seen(self) -> bool:
        """Is the state certain to be the one that was read last?"""
        seen = self._seen
        # A normal number that is held back for the next draw does not show in the memory.
        if seen is None or seen.memory is None or seen.state["has_gauss"]:
            return False
        owner = np.random.get_bit_generator()  # type: ignore[attr-defined]
        return owner is seen.owner and _memory_of(owner) == seen.memory


def _memory_of(owner: Any) -> bytes | None:
    if not isinstance(owner, np.random.MT19937):
        return None
    return ctypes.string_at(owner.ctypes.state_address, _KEY_BYTES + _POSITION_BYTES)


def _as_memory(state: dict[str, Any]) -> bytes | None:
    """The memory of a Mersenne Twister in this state."""
    if state["bit_generator"] != "MT19937":
        return None
    position: int = state["state"]["pos"]
    return bytes(state["state"]["key"].astype(np.uint32).tobytes()) + position.to_bytes(_POSITION_BYTES, sys.byteorder)
