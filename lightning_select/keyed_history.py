"""Running statistics of the rows of a stream, whose length nobody knows: by key, for the keys seen last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

import torch

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.history import SampleHistory
from lightning_select.states import broken_state, check_state
from lightning_select.types import Float, Int, Num, Shaped, Tensor
from lightning_select.visits import check_call, check_whole, visits

__all__ = ["KeyedHistory"]

_PADDING = -1


class KeyedHistory:
    """A `SampleHistory` whose rows are known by a key: any int64 but -1, which is padding.

    It holds at most ``capacity`` keys. A new key takes the place of the one whose last update is the oldest, and of
    keys of the same update the smaller one goes first. Everything that a `SampleHistory` shows (``count``,
    ``ema_loss``, ``seen``, ...) is shown here by slot; `slots` tells which slot is whose, and `read` and `beta` take
    keys. A key that is not held reads as never seen.

    Which key has which slot is kept in a dictionary of the host: every call that takes keys waits for them if they are
    on a device. Where the length of the dataset is known use `SampleHistory`, which waits for nothing.

    Args:
        capacity: How many keys are held at most; at least as many as come in one step.
        columns: As in `SampleHistory`, like the rest.
        decay: How much of the running mean of the loss stays when a new loss comes in.
        forget: How much of the counts of success stays after a step in which the row was not tried.
        device: Where the statistics live.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> history = KeyedHistory(2)
        >>> for step, key in enumerate([7, 2**40, 7, -5]):
        ...     history.update(torch.tensor([key]), step, loss=torch.tensor([float(step)]))
        >>> history.read("last_loss", torch.tensor([7, 2**40, -5])).tolist()
        [2.0, nan, 3.0]
    """

    def __init__(
        self,
        capacity: int,
        *,
        columns: Collection[str] = ("loss",),
        decay: float = 0.9,
        forget: float = 1.0,
        device: torch.device | str | None = None,
    ) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ArgumentError(f"KeyedHistory.capacity must be a whole number, at least 1, got {capacity!r}.")
        self.capacity = capacity
        self.table = SampleHistory(capacity, columns=columns, decay=decay, forget=forget, device=device)
        self._slots: OrderedDict[int, int] = OrderedDict()  # slot of each key, the key seen longest ago first

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "table" not in vars(self):
            raise AttributeError(f"'KeyedHistory' object has no attribute '{name}'")
        return getattr(self.table, name)

    def __len__(self) -> int:
        return len(self._slots)

    def slots(self, keys: Int[Tensor, "k"]) -> Int[Tensor, "k"]:
        """The slot of each key; -1 for padding and for keys that are not held."""
        return self._find(_listed(keys))

    def update(
        self,
        ids: Int[Tensor, "k"],
        step: int,
        *,
        loss: Float[Tensor, "k"] | None = None,
        successes: Num[Tensor, "k"] | None = None,
        failures: Num[Tensor, "k"] | None = None,
        correct: Shaped[Tensor, "k"] | None = None,
        keep: float | Float[Tensor, "k"] = 1.0,
    ) -> None:
        """`SampleHistory.update` for the keys ``ids``; a call that is refused changes nothing.

        Raises:
            ArgumentError: A shape, a column, a value or the number of keys is not as said there.
            RowIdError: Keys are not whole numbers.
        """
        given = {"loss": loss, "successes": successes, "failures": failures, "correct": correct}
        given["keep"] = keep if isinstance(keep, Tensor) else None
        signals = {name: value for name, value in given.items() if value is not None}
        keys = _listed(ids)
        self._check(keys, step, signals, keep)
        self._admit(sorted(set(keys) - {_PADDING}))
        self.table.update(
            self._find(keys), step, loss=loss, successes=successes, failures=failures, correct=correct, keep=keep
        )

    def read(self, name: str, ids: Int[Tensor, "k"]) -> Shaped[Tensor, "k"]:
        """The statistic ``name`` of the keys ``ids``; padding and keys that are not held read as never seen."""
        return self.table.read(name, self.slots(ids))

    def beta(self, ids: Int[Tensor, "k"], step: int) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
        """Successes and failures of the keys ``ids`` as they stand before the update of ``step``; 0 if not held."""
        return self.table.beta(self.slots(ids), step)

    def to(self, device: torch.device | str) -> KeyedHistory:
        """Move the statistics to another device."""
        self.table.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the statistics, and the keys and their slots, the key seen longest ago first."""
        return {
            "keys": torch.tensor(list(self._slots), dtype=torch.int64),
            "slots": torch.tensor(list(self._slots.values()), dtype=torch.int64),
            **self.table.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ConfigurationError: The state is of another capacity or has other columns, is that of a `SampleHistory`, or
                is damaged; all is as it was.
        """
        columns = {name: value for name, value in state.items() if name not in ("keys", "slots")}
        if len(columns) + 2 != len(state):
            raise ConfigurationError(f"KeyedHistory must be given a state with keys and slots, got {', '.join(state)}.")
        capacity = columns["count"].shape[0] if "count" in columns else self.capacity
        if capacity != self.capacity:
            raise ConfigurationError(
                f"KeyedHistory.capacity must be that of the state ({capacity}), got {self.capacity}."
            )
        slots = _checked_slots(state, capacity)
        self.table.load_state_dict(columns)
        self._slots = slots

    def _check(self, keys: list[int], step: int, signals: Mapping[str, Tensor], keep: Tensor | float) -> None:
        """Refuse what the table would refuse, before a key has lost its place to another one."""
        table = self.table
        distinct = len(set(keys) - {_PADDING})
        if distinct > self.capacity:
            raise ArgumentError(
                f"KeyedHistory.capacity must be at least the number of keys in a step ({distinct}), "
                f"got {self.capacity}."
            )
        check_call(step, signals, keep, table.columns)
        pretended = torch.tensor([_PADDING if key == _PADDING else 0 for key in keys], dtype=torch.int64)
        visits(pretended, signals, rows=self.capacity, device=table.device, look=table.device.type == "cpu")

    def _find(self, keys: list[int]) -> Tensor:
        slots = [self._slots.get(key, _PADDING) for key in keys]
        return torch.tensor(slots, dtype=torch.int64).to(self.table.device, non_blocking=True)

    def _admit(self, keys: list[int]) -> None:
        """Give every key a slot. They come in ascending order, so that the order of the batch does not matter."""
        for key in keys:
            if key in self._slots:
                self._slots.move_to_end(key)
        taken = []
        for key in keys:
            if key not in self._slots:
                full = len(self._slots) == self.capacity
                taken.append(self._slots.popitem(last=False)[1] if full else len(self._slots))
                self._slots[key] = taken[-1]
            self._slots.move_to_end(key)
        if taken:
            self.table.clear(torch.tensor(taken))


def _checked_slots(state: Mapping[str, Tensor], capacity: int) -> OrderedDict[int, int]:
    """Slot of each key; as long as there is room, the next new key takes the slot after those that are taken."""
    owner, ours = "KeyedHistory", {name: state[name] for name in ("keys", "slots")}
    none = torch.zeros(0, dtype=torch.int64)
    check_state(owner, ours, {"keys": none, "slots": none}, loose=frozenset(ours))
    keys, slots = ours["keys"].tolist(), ours["slots"].tolist()
    if len({*keys} - {_PADDING}) != len(keys) or len(keys) > capacity:
        raise broken_state(owner, "state.keys", f"be at most {capacity} different keys", f"{len(keys)} of them")
    if sorted(slots) != list(range(len(keys))):
        raise broken_state(owner, "state.slots", f"be the first {len(keys)}, one for each key", str(slots)[:80])
    return OrderedDict(zip(keys, slots, strict=True))


def _listed(keys: Tensor) -> list[int]:
    check_whole("KeyedHistory.keys", keys)
    return keys.tolist()
