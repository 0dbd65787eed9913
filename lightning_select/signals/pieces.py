"""Score a batch that does not fit into memory piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from lightning_select.batch import take_rows
from lightning_select.compat import rank_zero_info
from lightning_select.errors import ScoringMemoryError
from lightning_select.signals.base import SIGNAL_NAMES, Signals
from lightning_select.signals.contract import rows_of
from lightning_select.signals.head.head import Head
from lightning_select.signals.layout.experiments import device_of
from lightning_select.signals.memory import is_out_of_memory
from lightning_select.signals.scales import Scales
from lightning_select.signals.sharded import inside_of_wrapper, sharding_strategy
from lightning_select.types import Batch

__all__ = ["Pieces", "Room", "joined"]


@dataclass
class Room:
    """How many rows fit into memory at once; ``None`` as long as every batch did."""

    rows: int | None = None


class Pieces:
    """Runs a measurement on the whole batch, or in pieces once memory ran out.

    Rows are halved until a pass fits, and that size is kept. All pieces have as many rows: the last one begins among
    those of the piece before, so that a loss which is a sum over its batch has one scale for all rows; other divisors
    (masked means, class weights) are brought to that of the first piece. In evaluation mode the loss of a row is then
    the same in any piece, up to rounding and a factor that all rows share, except where rows act on each other:
    in contrastive losses they meet only those of their piece, and so in BatchNorm with ``train_mode=True``.

    Args:
        module: Whose step is measured.
        trainer: Its Trainer.
        room: How many rows fit; runners whose losses are compared share one.
        train_mode: Is it measured in the mode it trains in?

    Attributes:
        scales: Of the pieces of the batch that is measured now; ``None`` where it is measured as a whole.
    """

    def __init__(self, module: nn.Module, trainer: Any, room: Room, *, train_mode: bool) -> None:
        self._name = type(module).__name__
        self._module, self._trainer, self._room, self._train_mode = module, trainer, room, train_mode
        self.scales: Scales | None = None

    def measure(self, batch: Batch, whole: Callable[[Batch], Signals]) -> Signals:
        """What ``whole`` says of every row of the batch.

        Raises:
            ScoringMemoryError: Memory runs out with one row, or pieces cannot be made.
        """
        rows, inside = rows_of(batch), partial(inside_of_wrapper, self._trainer, self._module, whole)
        while True:
            size = min(rows, self._room.rows or rows)
            self.scales = None if size == rows else Scales()
            found: list[Signals] = []
            with _without_room(found, size) as failure:
                found.append(inside(batch) if size == rows else joined(list(_parts(batch, rows, size, inside)), rows))
            if found:
                return found[0]
            # Out of the handler, so that nothing holds the frames of the failed pass any longer.
            self._shrink(size, rows, failure[0], device_of(batch))

    def _shrink(self, size: int, rows: int, told: str, device: torch.device) -> None:
        together = _met_by_all_ranks(self._module, self._trainer, self._train_mode)
        if size == 1 or together:
            why = f"and cannot be scored in pieces: {together}" if size > 1 else "one row at a time neither"
            raise ScoringMemoryError(
                f"{self._name}: a scoring pass must fit into memory, got a batch of {rows} rows that does not, "
                f"{why}. Load fewer rows per batch, take a score that needs less (logits of long rows are large), or "
                f"a precision of 16 bits. {told}"
            )
        self._room.rows = size // 2
        empty = getattr(getattr(torch, device.type, None), "empty_cache", None)
        if empty is not None:
            empty()
        note = " BatchNorm then goes by the rows of a piece." if self._train_mode else ""
        rank_zero_info(
            f"{self._name}: memory ran out while {size} rows were scored at once, so from now on it is "
            f"{self._room.rows} at a time. Losses that relate rows to their batch see those of a piece.{note}"
        )


@contextmanager
def _without_room(found: list[Any], size: int) -> Iterator[list[str]]:
    """Take the error of a pass that had no room; what is left of it is its first line."""
    told: list[str] = []
    try:
        yield told
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        found.clear()
        told.append(next(iter(str(error).splitlines()), type(error).__name__))


def _parts(batch: Batch, rows: int, size: int, whole: Callable[[Batch], Signals]) -> Iterator[Signals]:
    """The signals of the rows in order, from passes over ``size`` rows each."""
    device = device_of(batch)
    for start in range(0, rows, size):
        begin = min(start, rows - size)
        found = whole(take_rows(batch, torch.arange(begin, begin + size, device=device)))
        yield found if begin == start else found.take(torch.arange(start - begin, size, device=device))


def _met_by_all_ranks(module: nn.Module, trainer: Any, train_mode: bool) -> str:
    """Why all ranks must run a pass as often as each other; empty where each may run it by itself."""
    if sharded := sharding_strategy(getattr(trainer, "strategy", None)):
        return f"{sharded} puts weights together on all ranks at once"
    if train_mode and any(isinstance(part, nn.SyncBatchNorm) for part in module.modules()):
        return "SyncBatchNorm in training mode waits for all ranks"
    return ""


def joined(parts: Sequence[Signals], rows: int) -> Signals:
    """The signals of pieces as those of one batch: what all of them tell.

    Raises:
        ScoringMemoryError: A signal has another shape in each piece.
    """
    whole: dict[str, Any] = {"link": parts[0].link}
    for name in SIGNAL_NAMES:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            continue
        if len({tuple(value.shape[1:]) for value in values}) > 1:
            raise ScoringMemoryError(
                f"A batch of {rows} rows that is scored in pieces must show signals of one shape, got "
                f"{[tuple(value.shape) for value in values]} as {name}. Load fewer rows per batch."
            )
        whole[name] = Head.joined(values) if name == "head" else torch.cat(values)
    return Signals(**whole)
