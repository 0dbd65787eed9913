"""The order in which the rows of a run came: noted while they are drawn, and compared with that of another run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Order", "Witness", "differing_order"]

_CHECKPOINTS = (8, 64, 512, 4096)
"""Rows of a pass after which its order so far is noted."""


class Order:
    """What is noted of one loader: the order within passes 1, 2, 4, 8 and so on, after a few numbers of rows.

    Attributes:
        first: Positions of the first rows of the first pass.
        marks: Digests of positions, by pass and number of rows.
    """

    def __init__(self) -> None:
        self.first: list[int] = []
        self.marks: dict[tuple[int, int], str] = {}
        self._passes = 0

    def begin(self) -> _Pass | None:
        """A pass over the data begins; ``None`` where it is not looked at."""
        self._passes += 1
        looked_at = self._passes & (self._passes - 1) == 0
        return _Pass(self, self._passes) if looked_at else None

    def describe(self, place: int, size: Any) -> str:
        """The marks in words that `differing_order` reads, for the loader at ``place`` with batches of ``size``."""
        told = [f"{place}.{number}.{rows}:{digest}" for (number, rows), digest in self.marks.items()]
        return " ".join([f"{place}.size:{size}", *told])


class _Pass:
    def __init__(self, order: Order, number: int) -> None:
        self._order, self._number = order, number
        self._rows, self._digest = 0, hashlib.blake2b(digest_size=4)

    def hear(self, positions: Any) -> None:
        """Note the next rows."""
        if self._rows >= _CHECKPOINTS[-1] or not hasattr(positions, "__len__"):
            return
        for position in positions:
            if not _is_position(position):
                continue
            self._rows += 1
            self._digest.update(int(position).to_bytes(8, "little", signed=True))
            if self._number == 1 and self._rows <= _CHECKPOINTS[0]:
                self._order.first.append(int(position))
            if self._rows in _CHECKPOINTS:
                self._order.marks[self._number, self._rows] = self._digest.hexdigest()
            if self._rows == _CHECKPOINTS[-1]:
                return


class Witness:
    """A batch sampler that notes the rows it draws; everything else is the inner one's."""

    def __init__(self, inner: Any, order: Order) -> None:
        self.inner = inner
        self.order = order

    def __iter__(self) -> Iterator[Any]:
        noted = self.order.begin()
        for positions in self.inner:
            if noted is not None:
                noted.hear(positions)
            yield positions

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # not while copy and pickle build an empty one
            raise AttributeError(name)
        return getattr(self.inner, name)


def differing_order(ours: str, theirs: str) -> str:
    """Where two orders part, in words; empty where they do not, as far as both are known.

    Loaders whose batches have different sizes are compared in their first pass only: a last batch that is dropped is of
    another length, and some samplers then begin the next pass elsewhere.
    """
    firsts = [[word for word in one.split() if ":" not in word] for one in (ours, theirs)]
    common = min(map(len, firsts))
    if firsts[0][:common] != firsts[1][:common]:
        return f"{' '.join(firsts[0])}, those of uniform {' '.join(firsts[1])}"
    marks, others = (dict(word.split(":") for word in one.split() if ":" in word) for one in (ours, theirs))
    for key, digest in marks.items():
        place, _, at = key.partition(".")
        if at == "size" or others.get(key, digest) == digest:
            continue
        number, _, rows = at.partition(".")
        if number == "1" or marks.get(f"{place}.size") == others.get(f"{place}.size"):
            return f"not that of uniform within the first {rows} rows of pass {number}"
    return ""


def _is_position(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) or (isinstance(value, Tensor) and value.ndim == 0)
