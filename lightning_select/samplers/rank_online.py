"""Rows by the rank of their last loss: the worst row is a given number of times as likely as the best one.

With ``i = 1`` for the row of the largest loss and N rows, ``p_i ~ exp(-log(s) / N)^i``. Ranks do not care how large a
loss is, so a row with a wrong label comes no more often than any other of the hardest rows. The pressure ``s`` goes
down to 1, where all rows are alike, while training goes on.

References:
    Loshchilov and Hutter, "Online Batch Selection for Faster Training of Neural Networks", ICLR 2016 workshop,
    arXiv:1511.06343, section 3: equation of the probabilities, batches without replacement, a first epoch that passes
    over all rows, pressure 100 to 1 exponentially.

Deviations:
    The paper also computes the losses of outdated rows anew, a share ``r_ratio`` of the data every ``r`` epochs. Here a
    loss is known from training alone, so a row of low rank keeps an old loss until it is drawn again.
    Rows are sorted every so many updates; in between, a loss changes but the rank stays. The pressure moves with the
    sorting. Equal losses rank at random, anew each time. Rows without a loss rank first, among them those whose first
    batch is still on its way through the workers of a loader.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from lightning_select.history import SampleHistory
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import between, whole
from lightning_select.samplers.draw import WeightedDraw
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.picks import effective_share, in_parts
from lightning_select.schedule import Anneal
from lightning_select.seeding import generator_at
from lightning_select.states import broken_state, check_range
from lightning_select.types import Float, Int

__all__ = ["RankOnline", "rank_online"]

SORTS_PER_PASS = 20

_PRESSURE = Anneal(100.0, 1.0, shape="exponential")


def rank_online(ranks: Int[Tensor, "rows"], *, pressure: float) -> Float[Tensor, "rows"]:
    """Probabilities of all ranks, 1 for the largest loss; float64."""
    powers = torch.exp(-math.log(pressure) / len(ranks) * ranks.double())
    return powers / powers.sum()


class RankOnline(OnlineSampler):
    """Draw rows by the rank of their last loss.

    The first rows drawn are one shuffled pass over the dataset, so that every row gets a loss. After that no row comes
    twice in a chunk, except where a chunk is larger than the dataset. Sorting costs ``O(N log N)``, a draw in between
    what it draws. The annealed pressure of the default needs a training of known length.

    Args:
        dataset: What is sampled from, or its number of rows.
        pressure: How many times as likely the row of the largest loss is as that of the smallest, at least 1.
        sort_every: Updates from one sorting to the next; ``None`` sorts 20 times while as many rows are drawn as the
            dataset has.
        num_samples: Rows of one epoch, of all ranks together; ``None`` is the length of the dataset.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> sampler = RankOnline(3, pressure=1e6)
        >>> sampler.observe(torch.tensor(sorted(sampler)), {"loss": torch.tensor([1.0, 9.0, 5.0])})
        >>> list(sampler)
        [1, 2, 0]
    """

    loose = frozenset({"place"})

    def __init__(
        self,
        dataset: Sized | int,
        *,
        pressure: float | Anneal = _PRESSURE,
        sort_every: int | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        self.pressure = between(self.owner, "pressure", pressure, 1.0, 1e12, anneal=True)
        self.sort_every = None if sort_every is None else whole(self.owner, "sort_every", sort_every, 1)
        self._history = SampleHistory(self.rows, device=self.device)
        self._ranks = WeightedDraw(self.rows, device=self.device)
        self._order = torch.arange(self.rows, device=self.device)  # rows by rank
        self._passed = 0  # rows of the first pass that are drawn
        self._sorted_at: int | None = None
        self._since = 0  # rows drawn since then

    @property
    def needs(self) -> frozenset[str]:
        """Losses."""
        return frozenset({"loss"})

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The rest of the first pass, then rows by rank."""
        first = self._first_pass(min(count, self.rows - self._passed))
        missing = count - len(first)
        if not missing:
            return Drawn(first)
        self._sort_if_due(generator)
        self._since += missing
        if len(first):  # none of the first comes twice
            distinct = self._draw_different(min(count, self.rows), generator)
            there = torch.zeros(self.rows, dtype=torch.bool, device=self.device).index_fill_(0, first, True)
            last = there.index_select(0, distinct).byte().argsort(stable=True)
            first = torch.cat([first, distinct.index_select(0, last[: min(missing, self.rows - len(first))])])
        parts = in_parts(count - len(first), self.rows)
        return Drawn(torch.cat([first, *(self._draw_different(part, generator) for part in parts)]))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Take in losses; one that is not finite says nothing."""
        self._history.update(ids, self.updates, loss=signals["loss"])

    def tensors(self) -> dict[str, Any]:
        """Losses, ranks, and where the first pass and the sorting are."""
        learnt = {"history": self._history.state_dict(), "ranks": self._ranks.state_dict()}
        return learnt | {"order": self._order.clone(), "place": [self._passed, self._sorted_at, self._since]}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what `tensors` gave."""
        place, rows = state["place"], torch.arange(self.rows)
        for number, most in ((place[0], self.rows), (place[1] or 0, math.inf), (place[2], math.inf)):
            check_range(self.owner, "place", math.nan if number is None else number, 0, most)
        if not torch.equal(state["order"].cpu().sort().values, rows):
            raise broken_state(self.owner, "order", "hold every row once", "others")
        self._history.load_state_dict(state["history"])
        self._ranks.load_state_dict(state["ranks"])
        self._order = state["order"].to(self.device)
        self._passed, self._sorted_at, self._since = place

    def move(self, device: torch.device) -> None:
        """Move what is learnt to the device of the model."""
        self._history.to(device)
        self._ranks.to(device)
        self._order = self._order.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """Share of rows with a known loss, and their mean loss; the effective share of the dataset by the ranks."""
        losses, weights = self._history.last_loss, self._ranks.weights.double()
        seen = losses.isfinite()
        return {
            "seen": seen.float().mean(),
            "loss": torch.where(seen, losses, 0.0).sum() / seen.sum().clamp(min=1),
            "effective": effective_share(weights),
        }

    def _first_pass(self, count: int) -> Int[Tensor, "count"]:
        """The next rows of the pass, whose order follows from the seed."""
        if count == 0:
            return self._order[:0]
        if self._sorted_at is None and self._passed == 0:
            cpu = torch.device("cpu")
            everyone = torch.randperm(self.rows, generator=generator_at(cpu, self.seed), device=cpu)
            self._order = everyone.to(self.device)
        self._passed += count
        return self._order[self._passed - count : self._passed]

    def _sort_if_due(self, generator: torch.Generator) -> None:
        if self._sorted_at is not None:
            due = self._since * SORTS_PER_PASS >= self.rows
            if self.sort_every is not None:
                due = self.updates - self._sorted_at >= self.sort_every
            if not due or self.updates == self._sorted_at:
                return
        losses = self._history.last_loss
        mixed = torch.randperm(self.rows, generator=generator, device=self.device)
        keys = torch.where(losses.isfinite(), losses, torch.inf).index_select(0, mixed)
        self._order = mixed.index_select(0, keys.argsort(descending=True, stable=True))
        ranks = torch.arange(1, self.rows + 1, device=self.device)
        # The largest weight is 1, which float32 holds for any number of rows.
        chances = rank_online(ranks, pressure=self.resolve(self.pressure))
        self._ranks.set_all(chances / chances[:1])
        self._sorted_at, self._since = self.updates, 0

    def _draw_different(self, count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
        return self._order.index_select(0, self._ranks.draw(count, generator, replacement=False))
