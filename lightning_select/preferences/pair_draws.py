"""The order in which two reward models go through the pairs: an order of its own for each, and one pool for both.

A batch of ``2 n`` rows holds ``n`` pairs for each model, in turn: rows 0, 2, 4, ... are for the first one and rows
1, 3, 5, ... for the second. In every epoch each model goes through all pairs once; under a curriculum through the pairs
of the pool, again and again in a new random order until the epoch is as long as ever. (Epochs that change their length
are cut or lose their validation under a Trainer.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.preferences.easy_first import EasyFirst
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import whole
from lightning_select.samplers.drawn import Drawn
from lightning_select.seeding import generator_at
from lightning_select.states import check_range
from lightning_select.types import Float, Int

__all__ = ["PairDraws"]

_SMALLEST, _LARGEST = 1e-30, 500.0
"""Losses that a margin is read from."""


class PairDraws(OnlineSampler):
    """Draw pairs for two models in turn, easy ones first under a curriculum.

    Give the loader twice the batch size of one model. A curriculum learns from ``loss``, that of the reviewer: the
    margin follows from it. Planning an epoch takes a pass over all pairs; a draw costs what it draws. All ranks draw
    the same order and take their shares; where these come out uneven, some pairs come twice.

    Args:
        dataset: The pairs, or their number.
        curriculum: Which pairs take part in an epoch; ``None``: all.
        streams: How many models draw in turn; with 1, both learn from the same batches.
        seed: Seed of the orders.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> rows = list(PairDraws(5))
        >>> sorted(rows[0::2]) == sorted(rows[1::2]) == [0, 1, 2, 3, 4]
        True
    """

    loose = frozenset({"table"})

    def __init__(
        self,
        dataset: Sized | int,
        *,
        curriculum: EasyFirst | None = None,
        streams: int = 2,
        seed: int = 0,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, seed=seed, lag=lag)
        if curriculum is not None and not isinstance(curriculum, EasyFirst):
            raise ArgumentError(f"{self.owner}.curriculum must be an EasyFirst or None, got {curriculum!r}.")
        self.curriculum, self.streams = curriculum, whole(self.owner, "streams", streams, 1)
        self._means = torch.full((self.rows,), float("nan"), dtype=torch.float64)
        self._total, self._count = torch.zeros_like(self._means), torch.zeros_like(self._means)
        self._plan: Tensor | None = None  # of this epoch; not in the state, since it follows from the rest
        self._place = 0

    @property
    def needs(self) -> frozenset[str]:
        """Losses of the reviewer, if there is a curriculum."""
        return frozenset() if self.curriculum is None else frozenset({"loss"})

    @property
    def margins(self) -> Float[Tensor, "pairs"]:
        """Mean margin of each pair in the last epoch that it took part in before this one; NaN where there is none."""
        return self._means

    def rows_of_epoch(self) -> int:
        """As many pairs for every model and rank."""
        return self.streams * self._length()

    def begin(self) -> None:
        """Take over what the epoch before told, and plan this one."""
        heard = self._count > 0
        self._means = torch.where(heard, self._total / self._count.clamp(min=1), self._means)
        self._total, self._count = torch.zeros_like(self._total), torch.zeros_like(self._count)
        self._plan, self._place = self._planned(), 0

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The next pairs of the plan."""
        if self._plan is None:
            self._plan = self._planned()
        places = torch.arange(self._place, self._place + count, device=self.device) % len(self._plan)
        self._place += count
        return Drawn(self._plan.index_select(0, places))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Add up margins; a loss that is not finite says nothing."""
        losses = signals["loss"].double()
        heard = (ids >= 0) & losses.isfinite()
        margins = -losses.clamp(_SMALLEST, _LARGEST).expm1().log()
        places = torch.where(heard, ids, 0)
        self._total.index_add_(0, places, torch.where(heard, margins, 0.0))
        self._count.index_add_(0, places, heard.double())

    def tensors(self) -> dict[str, Any]:
        """What is known of the pairs, and how far the plan was used."""
        table = torch.stack([self._means, self._total, self._count])
        return {"place": self._place, "table": table if self.curriculum is not None else table[:, :0]}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what `tensors` gave."""
        check_range(self.owner, "place", state["place"], 0)
        self._place, self._plan = state["place"], None
        if self.curriculum is not None and state["table"].shape[1] == self.rows:
            self._means, self._total, self._count = state["table"].to(self.device, copy=True).unbind()  # learnt into

    def move(self, device: torch.device) -> None:
        """Move what is known of the pairs."""
        self._means, self._total, self._count = (one.to(device) for one in (self._means, self._total, self._count))
        self._plan = None if self._plan is None else self._plan.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """The share of the pairs that takes part."""
        return {} if self.curriculum is None else {"pool": len(self._pool()) / self.rows}

    def _length(self) -> int:
        """Pairs of one model in an epoch, a multiple of the number of ranks."""
        return -(-self.rows // self.num_replicas) * self.num_replicas

    def _pool(self) -> Int[Tensor, "pool"]:
        everything = torch.arange(self.rows)
        return everything if self.curriculum is None else self.curriculum(self._means.cpu(), self.epoch)

    def _planned(self) -> Int[Tensor, "positions"]:
        """Position p is drawn for rank ``p % ranks``, and within a rank the models take turns."""
        pool, ranks = self._pool(), self.num_replicas
        orders = [torch.cat(list(self._passes(pool, stream)))[: self._length()] for stream in range(self.streams)]
        stages = 1 if self.curriculum is None else self.curriculum.stages
        if stages > 1:
            stage = torch.zeros(self.rows, dtype=torch.int64)
            stage[pool] = torch.arange(len(pool)) * stages // len(pool)
            orders = [order[stage[order].argsort(stable=True)] for order in orders]
        return torch.stack([order.view(-1, ranks) for order in orders], dim=1).flatten().to(self.device)

    def _passes(self, pool: Int[Tensor, "pool"], stream: int) -> Iterator[Int[Tensor, "pool"]]:
        """Made on the CPU, so that they are the same wherever the model is."""
        cpu = torch.device("cpu")
        for number in range(-(-self._length() // len(pool))):
            draw = generator_at(cpu, self.seed, self.epoch, stream, number)
            yield pool[torch.randperm(len(pool), generator=draw, device=cpu)]
