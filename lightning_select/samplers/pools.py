"""Pools: hard, normal and easy rows, told apart by their latest solve rate, each pool drawn with its own weight.

A row is in the pool that its latest attempts put it into, and moves whenever it is tried again: pools are recycled, not
emptied. Rows never tried are a pool of their own. A row's chance is its pool's weight, so a pool's share is weight x
size; ``max_hard`` and ``max_easy`` cap the shares of these two.

How it differs from `balanced_difficulty`: the latest visit decides, not a running mean; hard and easy rows may weigh
differently; shares of pools can be capped, which no weight per row can do; draws are with replacement; the sizes are
logged.

References:
    prime-rl, ``DifficultyPoolSampler``: hard up to a mean reward of 0.25 (weight 0.2), normal up to 0.75 (1), easy
    above (0.2), unseen rows 1, drawn with replacement.

Deviations:
    prime-rl computes the weights of all rows for every draw; here a draw costs as much as the batch.
    Its earlier buffer moved rows to the hard and easy pools for good, until none was normal. Here any row can be drawn
    at any time, and nothing drains. The caps come from a proposed repair of that buffer (easy 0.5, hard 0.4); what a
    cap takes goes to the normal and the unseen rows, and where there are none of these, caps do not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.history import SampleHistory
from lightning_select.samplers.balanced_difficulty import LEAST, MOST
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.beta_posterior import beta_posterior
from lightning_select.samplers.checks import between, several
from lightning_select.samplers.draw import WeightedDraw
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.picks import places
from lightning_select.samplers.tries import tries
from lightning_select.states import check_range
from lightning_select.types import Float, Int

__all__ = ["Pools", "pool_shares", "pools"]

NAMES = ("hard", "normal", "easy", "unseen")
HARD, NORMAL, EASY, UNSEEN = range(4)

_KEEPER = 1e-30
"""Weight of a row beyond the last, which keeps an empty pool drawable and is too light to be drawn from any other."""


def pools(rates: Float[Tensor, "rows"], thresholds: Sequence[float]) -> Int[Tensor, "rows"]:
    """Pool of each row: hard (0) up to the first threshold, normal (1) to the second, easy (2); unseen (3) for NaN."""
    pool = (rates > thresholds[0]).long() + (rates > thresholds[1]).long()
    return torch.where(rates.isnan(), UNSEEN, pool)


def pool_shares(
    sizes: Float[Tensor, "4"], weights: Float[Tensor, "4"], max_hard: float = 1.0, max_easy: float = 1.0
) -> Float[Tensor, "4"]:
    """Share of each pool in the draws: weight x size, with caps on hard and easy rows as long as there are others."""
    shares = sizes * weights / (sizes * weights).sum()
    caps = torch.ones_like(shares)
    caps[HARD], caps[EASY] = max_hard, max_easy
    capped = torch.minimum(shares, caps)
    others = shares[NORMAL] + shares[UNSEEN]
    grown = (1 - capped[HARD] - capped[EASY]) / others
    rescaled = torch.stack([capped[HARD], shares[NORMAL] * grown, capped[EASY], shares[UNSEEN] * grown])
    return torch.where(others > 0, rescaled, shares)


class Pools(OnlineSampler):
    """Draw from pools of hard, normal, easy and unseen rows, with replacement.

    Learns from ``success`` and ``attempts``, which come from rewards in [0, 1] of shape (rows, attempts) or from
    ``correct``. Drawing and learning cost as much as the batch. Memory: 40 bytes per row.

    Args:
        dataset: What is sampled from, or its number of rows.
        thresholds: Highest latest solve rate of hard and of normal rows.
        weights: Weight of a hard, of a normal and of an easy row; positive, so that no row is lost.
        unseen: Weight of a row that was never tried.
        max_hard: Largest share of hard rows in the draws.
        max_easy: Largest share of easy rows in the draws.
        num_samples: Rows of one epoch; ``None``: as many as the dataset has.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> pools(torch.tensor([0.0, 0.25, 0.5, 0.75, 0.8, torch.nan]), (0.25, 0.75)).tolist()
        [0, 0, 1, 1, 2, 3]
    """

    def __init__(
        self,
        dataset: Any,
        *,
        thresholds: Sequence[float] = (0.25, 0.75),
        weights: Sequence[float] = (0.2, 1.0, 0.2),
        unseen: float = 1.0,
        max_hard: float = 1.0,
        max_easy: float = 1.0,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        owner = self.owner
        for name, value, length in (("thresholds", thresholds, 2), ("weights", weights, 3)):
            several(owner, name, value, length)
        first, second = (between(owner, "thresholds", one, 0.0, 1.0) for one in thresholds)
        if first >= second:
            raise ArgumentError(f"{owner}.thresholds must rise, got {tuple(thresholds)}.")
        self.thresholds = (float(first), float(second))
        each = [between(owner, "weights", one, LEAST, MOST) for one in weights]
        each.append(between(owner, "unseen", unseen, LEAST, MOST))
        self.max_hard = between(owner, "max_hard", max_hard, LEAST, 1.0)
        self.max_easy = between(owner, "max_easy", max_easy, LEAST, 1.0)
        self.history = SampleHistory(self.rows, columns=("success",))
        self._weights = torch.tensor(each, dtype=torch.float64)
        self._pools = [WeightedDraw(self.rows + 1, fill=float(pool == UNSEEN)) for pool in range(4)]
        for pool in self._pools:
            pool.set(torch.tensor([self.rows]), torch.tensor([_KEEPER]))

    @property
    def needs(self) -> frozenset[str]:
        """Successes and attempts."""
        return frozenset({"success"})

    @property
    def sizes(self) -> Float[Tensor, "4"]:
        """Rows in each pool: hard, normal, easy, unseen."""
        return torch.stack([pool.total for pool in self._pools]).round()

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """A pool for each row by the shares, and any row of that pool."""
        shares = pool_shares(self.sizes, self._weights, self.max_hard, self.max_easy)
        chosen = places(shares, count, generator)
        offers = torch.stack([pool.draw(count, generator) for pool in self._pools])
        return Drawn(offers.gather(0, chosen.unsqueeze(0)).squeeze(0))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Move the rows of the batch to the pools of their latest attempts."""
        ids, successes, failures = tries(ids, signals)
        self.history.update(ids, self.updates, successes=successes, failures=failures, keep=0.0)
        rates = beta_posterior(*self.history.beta(ids, self.updates))
        where = torch.where(ids < 0, self.rows, ids)
        now = pools(rates, self.thresholds)
        for number, pool in enumerate(self._pools):
            pool.set(where, torch.where(ids < 0, _KEEPER, (now == number).float()))

    def tensors(self) -> dict[str, Any]:
        """What is known, and the pools."""
        return {"history": self.history.state_dict(), "pools": [pool.state_dict() for pool in self._pools]}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what is known, and the pools."""
        for one in state["pools"]:  # up to rounding: small kinds of numbers hold nothing as light
            check_range(self.owner, "pools.weights", one["weights"][-1:], _KEEPER / 2, _KEEPER * 2)
        self.history.load_state_dict(state["history"])
        for pool, one in zip(self._pools, state["pools"], strict=True):
            pool.load_state_dict(one)

    def move(self, device: torch.device) -> None:
        """Move what is known, and the pools."""
        self.history.to(device)
        self._weights = self._weights.to(device)
        for pool in self._pools:
            pool.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """Size of each pool, and its share in the draws."""
        sizes = self.sizes
        shares = pool_shares(sizes, self._weights, self.max_hard, self.max_easy)
        found: dict[str, float | Tensor] = {name: sizes[place] for place, name in enumerate(NAMES)}
        return found | {f"share_{name}": shares[place] for place, name in enumerate(NAMES)}
