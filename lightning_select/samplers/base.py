"""What all our samplers share: they draw lazily, the same on every rank, and can be stopped and resumed anywhere.

A sampler is a `DistributedSampler`, so Lightning leaves it as it is instead of listing it once per epoch. It draws a
chunk of rows (one batch of all ranks together) whenever a loader asks for more, so that a draw knows all that was
learnt by then. Every rank draws the same chunk from a generator seeded by (seed, epoch, draw) and takes its share.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import astuple
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_select import distributed
from lightning_select.samplers.checks import checked_signals, length_of, warn_left, warn_unfed, whole
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.ledger import Arrival
from lightning_select.samplers.progress import Progress
from lightning_select.samplers.saved import check_saved, load_whole
from lightning_select.samplers.stream import Stream
from lightning_select.schedule import resolve
from lightning_select.types import Int

__all__ = ["OnlineSampler"]

T = TypeVar("T")


class OnlineSampler(DistributedSampler[Any]):
    """Base of the samplers; a subclass says what it needs, how it draws and what it learns.

    Args:
        dataset: What is sampled from, or its number of rows.
        num_samples: Rows of one epoch, of all ranks together; ``None`` is the length of the dataset.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least. A loader with workers draws ahead by ``workers x
            prefetch_factor``; with a ``lag`` as large, any smaller number of workers draws the same rows.

    Raises:
        ArgumentError: A value is out of range, or the dataset has no length.

    Attributes:
        updates: Batches learnt from so far.
        progress: How far training is.
        fed: Does a Trainer tell this sampler what happens?
        loose, optional: Entries of `tensors` whose size is not always the same, and those that are not always there.
    """

    loose: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()

    def __init__(
        self,
        dataset: Sized | int,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        self.dataset: Any = dataset
        self.rows = length_of(self.owner, dataset)
        self._epoch_rows = self.rows if num_samples is None else whole(self.owner, "num_samples", num_samples, 1)
        self.seed, self.id_key = whole(self.owner, "seed", seed), id_key
        self.drop_last, self.shuffle = False, True  # what others expect to find on a DistributedSampler
        self.updates, self.progress, self.fed, self._said = 0, Progress(), False, False
        kind = "rows" if isinstance(dataset, Integral) else type(dataset).__qualname__
        self._identity = {"sampler": self.owner, "dataset": kind, "rows": self.rows}
        self._stream = Stream(self.draw, seed, whole(self.owner, "lag", lag, 0))

    @property
    def needs(self) -> frozenset[str]:
        """Signals that the sampler learns from, such as ``loss`` and ``success``. Without any, nobody need feed it."""
        return frozenset()

    @property
    def constant_length(self) -> bool:
        """Do all epochs have the same length?"""
        return True

    @property
    def drawing(self) -> bool:
        """Has anything been drawn that has not arrived?"""
        return self._stream.drawing

    @property
    def owner(self) -> str:
        """Who speaks, in errors."""
        return type(self).__name__

    @property
    def device(self) -> torch.device:
        """Where draws are made and what is learnt is kept."""
        return self._stream.device

    @property
    def epoch(self) -> int:  # type: ignore[override]
        """Number of the epoch, from 0."""
        return self._stream.epoch

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Ranks that share the draws."""
        return distributed.world_size()

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which share is ours."""
        return distributed.rank()

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Rows of this epoch on all ranks together, a multiple of their number."""
        return len(self) * self.num_replicas

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Rows of this epoch on one rank."""
        return len(self)

    def __len__(self) -> int:
        return -(-self.rows_of_epoch() // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        for ids in self.draws(listed=True):
            yield from ids

    def draws(self, *, listed: bool = False) -> Iterator[Any]:
        """What iterating gives, draw by draw: ids in a tensor that stays on the device, or in a list."""
        if self.fed and not self.constant_length and self._stream.ended_before:
            return  # this Trainer loads anew before it trains on the next epoch, and asks for the length by then
        warn_left(self.owner, self.epoch, self._stream.left_behind(self.total_size, fed=self.fed))
        if self._stream.open(fed=self.fed):
            self.begin()
        for chunk in self._stream.chunks(lambda: self.total_size, listed=listed):
            self._warn_unfed(over=False)
            yield chunk.ids
        self._warn_unfed(over=True)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, or on amid that of a loaded state; else each iteration is one more. Not for a Trainer."""
        if not self.fed:
            self._stream.name(epoch, self.total_size)

    def rows_of_epoch(self) -> int:
        """Rows of this epoch on all ranks together, before it is rounded up to their number."""
        return self._epoch_rows

    def begin(self) -> None:
        """A new epoch starts; for what is planned once per epoch."""

    def end_epoch(self) -> None:
        """A Trainer's epoch is over; the place to change the length of the next one."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The next ``count`` rows of all ranks. What it changes must be part of `tensors`."""

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Take in what a batch of all ranks said; an id of -1 is padding and says nothing."""

    def tensors(self) -> dict[str, Any]:
        """What a resumed run must find again: tensors and primitives."""
        return {}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what `tensors` gave."""

    def metrics(self) -> dict[str, float | Tensor]:
        """What is worth a curve; computed only when the loggers are due."""
        return {}

    def move(self, device: torch.device) -> None:
        """Move what is learnt to the device of the model."""

    def resolve(self, value: T) -> T:
        """An `Anneal` at this point of training, or the value itself."""
        return resolve(value, self.progress.step, self.progress.total_steps)

    def observe(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Learn from a batch: ids of its rows on all ranks, and the signals of each.

        A Trainer does so; your own loop calls it after each step. ``reward`` and ``correct`` are counted as successes.

        Raises:
            ArgumentError: A signal is missing or of another length, or a reward is outside [0, 1].
            RowIdError: An id is outside the dataset.
        """
        ids, signals = checked_signals(self.owner, self.needs, ids, None if self.fed else self.rows, signals)
        self.learn(ids.to(self.device), {name: value.detach().to(self.device) for name, value in signals.items()})
        self.updates += 1
        self._stream.heard(ids, fed=self.fed)
        self.landed()

    def landed(self) -> None:
        """The batch that arrived last has been trained on; until then, a resumed run trains on it again."""
        self._stream.landed()

    def bind(self, batch_size: int, lead: int, device: torch.device, epoch: int | None = None) -> None:
        """Be told by a Trainer the rows of a batch of one rank, the batches that are drawn ahead, and its epoch."""
        self.fed = True
        if self._stream.bind(batch_size * self.num_replicas, lead, device, epoch):
            self.move(device)

    def release(self) -> None:
        """A Trainer is done with us."""
        self.fed = False

    def restart(self, epoch: int) -> None:
        """Go to the start of an epoch, keeping what was learnt."""
        self._stream.restart(epoch)

    def arrived(self, ids: Sequence[int] | Tensor) -> Arrival:
        """A batch with these rows is about to be trained on."""
        return self._stream.arrived(ids)

    def close_epoch(self) -> bool:
        """The Trainer has its last batch of an epoch: the next iteration starts another one. Was it of this epoch?"""
        return self._stream.close()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to draw the same rows. Every rank must call it."""
        parts = {"stream": self._stream.state_dict(), "learnt": self.tensors()}
        return {**self._identity, "updates": self.updates, "progress": list(astuple(self.progress)), **parts}

    def load_state_dict(self, state: Mapping[str, Any], amid: OnlineSampler | None = None) -> str:
        """Go on where another run was, or ``amid`` in this one. What differs, in words; nothing if all is well.

        In a loop of your own, name the epoch by `set_epoch` to go on amid it, or the next iteration is another one.

        Raises:
            ConfigurationError: The state is damaged, or of another sampler or dataset; all is as it was.
        """
        before = self.tensors()
        check_saved(self.owner, state, self._identity, before, self.loose, self.optional)
        load_whole(self.owner, self.load_tensors, state["learnt"], before)
        self.updates, self.progress = state["updates"], Progress(*state["progress"])
        return self._stream.load_state_dict(state["stream"], None if amid is None else amid._stream)

    def _warn_unfed(self, *, over: bool) -> None:
        if self.needs and not (self.fed or self.updates or self.rank or self._said):
            self._said = warn_unfed(self.owner, self._stream.drawn_ever, over=over)
