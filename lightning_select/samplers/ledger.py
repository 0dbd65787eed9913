"""Which rows were drawn and have not yet arrived in a batch: the difference between drawing and learning.

A loader with workers draws batches ahead. What a checkpoint must hold is the position of training, not that of the
drawing, so the rows on their way are kept here until the batch that holds them arrives.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_select.types import State

__all__ = ["Arrival", "Chunk", "Ledger", "share"]


@dataclass
class Chunk:
    """Rows of one draw that this rank is to train on: lists for a loader on the host, tensors for one on the device.

    Attributes:
        ids: Dataset rows, in order.
        weights: How strongly each counts; ``None``: all alike.
        version: How many batches had arrived when the rows were drawn.
    """

    ids: Any
    weights: Any
    version: int

    def split(self, count: int) -> Chunk:
        """Take the first ``count`` rows out."""
        weights = None if self.weights is None else self.weights[:count]
        first = Chunk(self.ids[:count], weights, self.version)
        self.ids = self.ids[count:]
        if self.weights is not None:
            self.weights = self.weights[count:]
        return first

    def at(self, device: torch.device | None) -> Chunk:
        """The same with tensors on this device, or with lists."""
        weights = None if self.weights is None else _at(device, self.weights, torch.float32)
        return Chunk(_at(device, self.ids, torch.int64), weights, self.version)


@dataclass(frozen=True)
class Arrival:
    """What was noted of the rows of a batch when they were drawn.

    Attributes:
        weights: How strongly each row counts; ``None``: all alike.
        version: How many batches had arrived when the oldest of these rows was drawn; ``None`` where nobody knows.
        lag: How many more have arrived since.
    """

    weights: list[float] | Tensor | None
    version: int | None = None
    lag: int | None = None


class Ledger:
    """Chunks on their way, oldest first."""

    def __init__(self) -> None:
        self._chunks: collections.deque[Chunk] = collections.deque()

    @property
    def holds_rows(self) -> bool:
        """Is anything on its way?"""
        return bool(self._chunks)

    @property
    def rows(self) -> int:
        """How many rows are on their way?"""
        return sum(len(chunk.ids) for chunk in self._chunks)

    def starts_with(self, ids: list[int]) -> bool:
        """Are these rows the oldest on their way, in that order? Never of rows in tensors, which are not looked at."""
        place = 0
        for chunk in self._chunks:
            part = ids[place : place + len(chunk.ids)]
            if isinstance(chunk.ids, Tensor) or not part or chunk.ids[: len(part)] != part:
                return False
            place += len(part)
            if place == len(ids):
                return True
        return False

    def add(self, chunk: Chunk) -> None:
        """Note a draw."""
        self._chunks.append(chunk)

    def clear(self) -> None:
        """Forget all: the epoch is over, or was cut short."""
        self._chunks.clear()

    def pending(self) -> list[Chunk]:
        """Copies of what is on its way."""
        return [replace(chunk) for chunk in self._chunks]

    def hold(self, device: torch.device | None) -> None:
        """Keep what is on its way in tensors on this device, or in lists."""
        self._chunks = collections.deque(chunk.at(device) for chunk in self._chunks)

    def take(self, ids: Sequence[int] | Tensor) -> Arrival:
        """Strike out the rows of a batch that arrived, in whatever order a batch sampler put them.

        Rows in a tensor on a device come in the order in which they were drawn; to compare them would be to wait.
        """
        listed = not any(isinstance(chunk.ids, Tensor) for chunk in self._chunks)
        if isinstance(ids, Tensor) and not (listed and ids.device.type == "cpu"):
            return self._take_first(len(ids))
        wanted, taken = (ids.tolist() if isinstance(ids, Tensor) else list(ids)), []
        while wanted and self._chunks:
            front = self._chunks[0]
            count = min(len(front.ids), len(wanted))
            if front.ids[:count] != wanted[:count]:
                break
            taken.append(front.split(count))
            wanted = wanted[count:]
            if not len(front.ids):
                self._chunks.popleft()
        taken += [self._find(one) for one in wanted]
        weights = None
        if any(chunk.weights is not None for chunk in taken):
            weights = [weight for chunk in taken for weight in chunk.weights or [1.0] * len(chunk.ids)]
        return Arrival(weights, min((chunk.version for chunk in taken if chunk.version >= 0), default=None))

    def _take_first(self, count: int) -> Arrival:
        taken: list[Chunk] = []
        while count and self._chunks:
            taken.append(self._chunks[0].split(count))
            count -= len(taken[-1].ids)
            if not len(self._chunks[0].ids):
                self._chunks.popleft()
        known = next((chunk.weights for chunk in taken if chunk.weights is not None), None)
        weights: Any = None
        if isinstance(known, Tensor):
            weights = torch.cat(
                [known.new_ones(len(chunk.ids)) if chunk.weights is None else chunk.weights for chunk in taken]
            )
        elif known is not None:
            weights = [weight for chunk in taken for weight in chunk.weights or [1.0] * len(chunk.ids)]
        return Arrival(weights, min((chunk.version for chunk in taken), default=None))

    def _find(self, wanted: int) -> Chunk:
        for chunk in self._chunks:
            if wanted in chunk.ids:
                place = chunk.ids.index(wanted)
                chunk.ids = chunk.ids[:place] + chunk.ids[place + 1 :]
                weights = None if chunk.weights is None else chunk.weights[place : place + 1]
                if chunk.weights is not None:
                    chunk.weights = chunk.weights[:place] + chunk.weights[place + 1 :]
                if not chunk.ids:
                    self._chunks.remove(chunk)
                return Chunk([wanted], weights, chunk.version)
        return Chunk([wanted], None, -1)  # a batch sampler that repeats rows, or has some of its own

    def state_dict(self, first: Chunk | None = None) -> dict[str, torch.Tensor]:
        """All rows on their way, one after the other, those of ``first`` before them."""
        chunks = [chunk.at(None) for chunk in (*([] if first is None else [first]), *self._chunks)]
        sizes = [len(chunk.ids) for chunk in chunks]
        weights = [weight for chunk in chunks for weight in chunk.weights or [1.0] * len(chunk.ids)]
        weighted = any(chunk.weights is not None for chunk in chunks)
        return {
            "ids": torch.tensor([one for chunk in chunks for one in chunk.ids], dtype=torch.int64),
            "weights": torch.tensor(weights if weighted else [], dtype=torch.float64),
            "sizes": torch.tensor(sizes, dtype=torch.int64),
            "versions": torch.tensor([chunk.version for chunk in chunks], dtype=torch.int64),
        }

    def load_state_dict(self, state: State) -> None:
        """Have these rows on their way."""
        self.clear()
        sizes = state["sizes"].tolist()
        ids = [part.tolist() for part in torch.split(state["ids"], sizes)]
        weighted = state["weights"].numel() > 0
        weights = [part.tolist() for part in torch.split(state["weights"], sizes)] if weighted else [None] * len(sizes)
        for one, weight, version in zip(ids, weights, state["versions"].tolist(), strict=True):
            self.add(Chunk(one, weight, version))


def share(pending: Sequence[State], rank: int, world: int) -> State:
    """Rows that several ranks had on their way, dealt out anew.

    Every rank gets as many, for one with a batch more than another would wait for ever. Rows come twice for that.
    """

    def dealt(name: str) -> Tensor:
        columns = [one[name] for one in pending]
        longest = max(len(column) for column in columns)
        rows = torch.cat([column[place : place + 1] for place in range(longest) for column in columns] or columns)
        return torch.cat([rows, *[rows[:1]] * (-len(rows) % world)])[rank::world]

    ids = dealt("ids")
    # One chunk is as old as the oldest in it.
    oldest = min((int(version) for one in pending for version in one["versions"]), default=0)
    return {
        "ids": ids,
        "weights": dealt("weights"),
        "sizes": torch.tensor([len(ids)] if len(ids) else [], dtype=torch.int64),
        "versions": torch.tensor([oldest] if len(ids) else [], dtype=torch.int64),
    }


def _at(device: torch.device | None, values: Any, dtype: torch.dtype) -> Any:
    if isinstance(values, Tensor):
        return values.tolist() if device is None else values.to(device)
    return values if device is None else torch.tensor(values, dtype=dtype, device=device)
