"""Score a batch that does not fit into memory piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_select import distributed
from lightning_select.batch import take_rows
from lightning_select.compat import rank_info
from lightning_select.errors import BatchFormatError, ScoringMemoryError, SelectionError, TrainingStepContractError
from lightning_select.signals.base import SIGNAL_NAMES, Signals
from lightning_select.signals.contract import NothingReturnedError, rows_of
from lightning_select.signals.head.head import Head
from lightning_select.signals.layout.experiments import device_of
from lightning_select.signals.memory import is_out_of_memory
from lightning_select.signals.scales import Scales
from lightning_select.signals.sharded import inside_of_wrapper, sharding_strategy
from lightning_select.types import Batch

__all__ = ["Pieces", "Room", "joined"]

_OF_SHAPES = (RuntimeError, ValueError, IndexError)
"""What torch raises for a number of rows that it does not expect; an error of a class of one's own means another."""


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
        self._worked: set[int] = set()

    def measure(self, batch: Batch, whole: Callable[[Batch], Signals]) -> Signals:
        """What ``whole`` says of every row of the batch.

        Raises:
            ScoringMemoryError: Memory runs out with one row, or where pieces cannot be made, or the step fails on the
                first one of its size.
            BatchFormatError: Memory runs out, and no rows can be taken of the batch.
        """
        rows, inside = rows_of(batch), partial(inside_of_wrapper, self._trainer, self._module, whole)
        while True:
            size = min(rows, self._room.rows or rows)
            if size < rows:  # another runner may have found out how few rows fit
                self._check_alone(rows)
            self.scales = None if size == rows else Scales(rows)
            failure = ""
            try:
                return inside(batch) if size == rows else joined(list(self._parts(batch, rows, size, inside)), rows)
            except (NothingReturnedError, BatchFormatError, ScoringMemoryError):
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    by_size = size not in self._worked and type(error) in _OF_SHAPES
                    if size < rows and (by_size or isinstance(error, TrainingStepContractError)):
                        why = f"and cannot be scored {size} at a time"
                        raise self._too_large(rows, why, f"{type(error).__name__}: {error}") from error
                    self._tell_mode(error)
                    raise
                failure = next(iter(str(error).splitlines()), type(error).__name__)
            # Out of the handler, so that nothing holds the frames of the failed pass any longer.
            self._shrink(size, rows, failure, device_of(batch))

    def _tell_mode(self, error: Exception) -> None:
        """An error of the step itself does not say in which mode it was run, which may be its cause."""
        if not self._train_mode and not isinstance(error, SelectionError):
            rank_info(
                f"{self._name}: the step failed in evaluation mode, in which it is scored. If it needs training "
                "mode (a network that returns more there), make it work in both, or pass train_mode=True.",
                distributed.rank(),
            )

    def _check_alone(self, rows: int, failure: str = "") -> None:
        """May this rank run more passes than others do?"""
        if together := _met_by_all_ranks(self._module, self._trainer, self._train_mode):
            raise self._too_large(rows, f"and cannot be scored in pieces: {together}", failure)

    def _too_large(self, rows: int, why: str, failure: str) -> ScoringMemoryError:
        return ScoringMemoryError(
            f"{self._name}: a scoring pass must fit into memory, got a batch of {rows} rows that does not, {why}. "
            "Load fewer rows per batch, take a score that needs less (logits of long rows are large), or a precision "
            f"of 16 bits. {failure}".rstrip()
        )

    def _shrink(self, size: int, rows: int, failure: str, device: torch.device) -> None:
        if size == 1:
            raise self._too_large(rows, "one row at a time neither", failure)
        self._check_alone(rows, failure)
        self._room.rows = max(2, size // 2) if size > 2 else 1  # BatchNorm cannot train on one row
        empty = getattr(getattr(torch, device.type, None), "empty_cache", None)
        if empty is not None:
            empty()
        note = " BatchNorm then goes by the rows of a piece." if self._train_mode else ""
        rank_info(
            f"{self._name}: memory ran out while {size} rows were scored at once, so from now on it is "
            f"{self._room.rows} at a time. Losses that relate rows to their batch see those of a piece.{note}",
            distributed.rank(),
        )

    def _parts(self, batch: Batch, rows: int, size: int, whole: Callable[[Batch], Signals]) -> Iterator[Signals]:
        """The signals of the rows in order, from passes over ``size`` rows each."""
        device = device_of(batch)
        for start in range(0, rows, size):
            begin = min(start, rows - size)
            found = whole(take_rows(batch, torch.arange(begin, begin + size, device=device)))
            self._worked.add(size)
            yield found if begin == start else found.take(torch.arange(start - begin, size, device=device))


def _met_by_all_ranks(module: nn.Module, trainer: Any, train_mode: bool) -> str:
    """Why all ranks must run a pass as often as each other; empty where nothing is known of it.

    What a step of the user's waits for by itself (``all_gather``) is not known.
    """
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
    whole: dict[str, Any] = {"link": parts[0].link, "biased": parts[0].biased}
    for name in SIGNAL_NAMES:
        values = [getattr(part, name) for part in parts]
        if name == "valid" and any(value is not None for value in values):
            values = [_all_of(part) if value is None else value for part, value in zip(parts, values, strict=True)]
        if any(value is None for value in values):
            continue
        if len({tuple(value.shape[1:]) for value in values}) > 1:
            raise ScoringMemoryError(
                f"A batch of {rows} rows that is scored in pieces must show signals of one shape, got "
                f"{[tuple(value.shape) for value in values]} as {name}. Load fewer rows per batch."
            )
        whole[name] = Head.joined(values) if name == "head" else torch.cat(values)
    return Signals(**whole)


def _all_of(part: Signals) -> Tensor | None:
    """A ``valid`` that says of a piece without one what is meant by that."""
    return None if part.logits is None else torch.ones_like(part.logits[..., 0], dtype=torch.bool)
