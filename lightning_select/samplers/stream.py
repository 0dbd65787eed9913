"""The stream of rows that a sampler draws: chunk by chunk, epoch by epoch, and where in it training is.

Drawing runs ahead of training where a loader has workers. A stream therefore knows two positions: what was drawn, and
what has arrived in a batch. The rows in between are part of its state, so that a resumed run trains on them first.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_select import distributed
from lightning_select.looking import may_look
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.ledger import Arrival, Chunk, Ledger, share
from lightning_select.seeding import generator_at

__all__ = ["Stream"]

_UNBOUND_CHUNK = 32
"""Rows of one draw on one rank where no Trainer told how large the batches are."""


class Stream:
    """Draws in chunks and keeps the account.

    Args:
        draw: From a number of rows and a generator to rows of all ranks.
        seed: Seed of the draws.
        lag: Batches that every draw is ahead of the training at least.

    Attributes:
        epoch: Number of the epoch, from 0.
        drawn: Rows of all ranks drawn in this epoch.
        drawn_ever: The same of all epochs, since this object was made.
        arrivals: Batches that arrived so far, in all epochs.
        chunk: Rows of one draw, of all ranks.
        loader_lead: Batches that the loader draws ahead.
        device: Where the draws are made.
    """

    def __init__(self, draw: Callable[[int, torch.Generator], Drawn], seed: int, lag: int) -> None:
        self.epoch, self.drawn, self.drawn_ever, self.chunk, self.loader_lead = 0, 0, 0, 0, 0
        self._draw, self._seed, self._lag = draw, seed, lag
        self.arrivals, self._draws, self._arrived = 0, 0, False
        self._flight: Chunk | None = None
        self._opened = self._closed = False
        self._loaded: int | None = None  # epoch of a state, as long as nothing has arrived since
        self._named = False  # that epoch is to go on
        self._size, self._ended = 0, False  # rows of the last batch of all ranks; did a loader ask beyond the epoch?
        self.device = torch.device("cpu")
        self._ledger = Ledger()

    @property
    def lead(self) -> int:
        """Batches that a draw is ahead of the training."""
        return max(self._lag, self.loader_lead)

    @property
    def drawing(self) -> bool:
        """Has anything been drawn that has not arrived?"""
        return self._ledger.holds_rows

    @property
    def _waiting(self) -> int:
        """Rows of all ranks that were drawn and have not arrived."""
        return self._ledger.rows * distributed.world_size()

    @property
    def _rows_of_draw(self) -> int:
        return self.chunk or _UNBOUND_CHUNK * distributed.world_size()

    @property
    def ended_before(self) -> bool:
        """Do workers ask while all there is to this stream is a state saved after the last batch of an epoch?"""
        return self._loaded is not None and self._closed and self.loader_lead > 0

    def bind(self, chunk: int, lead: int, device: torch.device, epoch: int | None) -> bool:
        """Be told the rows of one draw, how many batches the loader draws ahead, and a device. Is it another one?

        In another ``epoch`` than that of a loaded state, a Trainer does not end the latter once more.
        """
        self.chunk, self.loader_lead = chunk, lead
        self._loaded = self._loaded if epoch in (None, self._loaded) else None
        before, self.device = self.device, device
        return device != before

    def open(self, *, fed: bool) -> bool:
        """Start an iteration. Is it a new epoch?

        A Trainer may ask a loader to start over before it has trained on anything: that is the same epoch, and what was
        drawn already comes first. Without a Trainer each iteration is an epoch, but for one that goes on amid the epoch
        of a loaded state, which has to be named.
        """
        self.chunk = self._rows_of_draw
        fresh = not self._opened
        if self._opened and (self._closed or self._arrived or not (fed or self._named)):
            self.turn_to(self.epoch + 1)
            fresh = True
        self._opened, self._arrived, self._named, self._ended = True, False, False, False
        self._loaded = self._loaded if fed else None
        return fresh

    def name(self, epoch: int, total: int) -> None:
        """Go to an epoch in a loop of one's own, amid it if that is where a loaded state was saved."""
        self._named = epoch == self.epoch and self._left_of_loaded(total) > 0
        if epoch != self.epoch:
            self.turn_to(epoch)

    def left_behind(self, total: int, *, fed: bool) -> int:
        """Rows of the epoch of a loaded state, of so many, that the next iteration leaves out unless it is named."""
        return 0 if fed or self._named else self._left_of_loaded(total)

    def _left_of_loaded(self, total: int) -> int:
        """Rows that training has not seen; none where a loader has asked for all and too few for a batch wait."""
        if self._closed or not self._opened or self._loaded is None:
            return 0
        waiting = self._waiting if self.arrivals else 0  # or else nobody said what arrived
        dropped = self.drawn >= total and self._ended and waiting < self._size
        return 0 if dropped else max(0, total - self.drawn) + waiting

    def restart(self, epoch: int) -> None:
        """Go to the start of an epoch, whatever was loaded before."""
        self.turn_to(epoch)
        self._loaded = None

    def turn_to(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self._flight = None
        self.epoch, self.drawn, self._draws, self._arrived = epoch, 0, 0, False
        self._opened = self._closed = self._named = self._ended = False
        self._ledger.clear()

    def close(self) -> bool:
        """The last batch of this epoch has arrived; what was drawn and not used is dropped. Was it this epoch?

        A Trainer that goes on after the last batch of an epoch ends that epoch once more, and by then its workers have
        drawn the next one, of which nothing has arrived: that one goes on.
        """
        loaded, self._loaded = self._loaded, None
        ahead = loaded is not None and self._waiting >= self.drawn
        if ahead and self._opened and not self._closed:
            return False
        self._closed, self._flight = True, None
        self._ledger.clear()
        return True

    def landed(self) -> None:
        """The batch that arrived last has been trained on. Until then it counts as on its way."""
        self._flight = None

    def heard(self, ids: Tensor, *, fed: bool) -> None:
        """News of rows in a loop of one's own that does not say what arrived: these, if they are next by the draws."""
        known = fed or self._flight is not None
        if not known and may_look(ids.device) and self._ledger.starts_with(ids.tolist()):
            self.arrived(ids)

    def arrived(self, ids: Sequence[int] | Tensor) -> Arrival:
        """A batch with these rows is about to be trained on."""
        arrival = self._ledger.take(ids)
        lag = None if arrival.version is None else self.arrivals - arrival.version
        self._flight = Chunk(ids if isinstance(ids, Tensor) else list(ids), arrival.weights, self.arrivals)
        self.arrivals, self._arrived, self._loaded = self.arrivals + 1, True, None
        self._size = len(ids) * distributed.world_size()
        return replace(arrival, lag=lag)

    def chunks(self, total: Callable[[], int], *, listed: bool = True) -> Iterator[Chunk]:
        """What is on its way already, then new draws, ``lag`` batches ahead, until ``total`` rows are drawn.

        In lists, or else in tensors that stay on the device.
        """
        self._ledger.hold(None if listed else self.device)
        queue = collections.deque(self._ledger.pending())
        while True:
            ahead = max(0, self._lag - self.loader_lead)
            while len(queue) <= ahead and self.drawn < total():
                queue.append(self._next(min(self.chunk, total() - self.drawn), listed))
            if not queue:
                self._ended = True
                return
            yield queue.popleft()

    def _next(self, count: int, listed: bool) -> Chunk:
        drawn = self._draw(count, generator_at(self.device, self._seed, self.epoch, self._draws))
        self._draws, self.drawn, self.drawn_ever = self._draws + 1, self.drawn + count, self.drawn_ever + count
        ours = slice(distributed.rank(), None, distributed.world_size())
        parts = (None if part is None else part[ours] for part in (drawn.ids, drawn.weights))
        # The sampler may change its own; lists are copies anyway.
        ids, weights = (part if part is None or listed else part.clone() for part in parts)
        chunk = Chunk(ids, weights, self.arrivals).at(None if listed else self.device)
        self._ledger.add(replace(chunk))
        return chunk

    def state_dict(self) -> dict[str, Any]:
        """Both positions, and the rows in between on every rank. All ranks must call it."""
        flags = [int(self._opened), int(self._closed)]
        trained = self.arrivals - (self._flight is not None)
        return {
            "place": [self.epoch, self._draws, self.drawn, trained, *flags, int(self._ended), self._size],
            "lag": self.lead,
            "pending": distributed.gather_objects(self._ledger.state_dict(self._flight)),
        }

    def load_state_dict(self, state: Mapping[str, Any], amid: Stream | None = None) -> str:
        """Go on where the other run was, with its lag. What differs from it, in words; nothing if all is well.

        Args:
            state: Its state.
            amid: The stream of this very run whose place is taken, where the state is of that one.
        """
        self.epoch, self._draws, self.drawn, self.arrivals, opened, closed, *asked = state["place"]
        self._opened, self._closed, self._arrived, self._flight = bool(opened), bool(closed), False, None
        # The first states of 0.1.0 do not tell: fewer rows than one draw count as dropped.
        ended, self._size = asked or (1, _UNBOUND_CHUNK * distributed.world_size())
        self._ended = bool(ended)
        self._loaded = self.epoch if amid is None else amid._loaded
        more = self.loader_lead > state["lag"]
        self._lag = max(self._lag, state["lag"])
        pending, world, rank = state["pending"], distributed.world_size(), distributed.rank()
        same = len(pending) == world
        self._ledger.load_state_dict(pending[rank] if same else share(pending, rank, world))
        if not same:
            self.drawn -= self.drawn % world  # what is left of the epoch must be shared out evenly
            return (
                "with another number of ranks: what was learnt is exact and no row that was on its way is lost, but "
                "rows come in other batches, and Lightning, which counts batches, ends this epoch early or late"
            )
        return "with workers that draw further ahead, so that draws know less than without the interruption" * more
