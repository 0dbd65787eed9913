"""Balanced difficulty: rows that are sometimes solved are drawn often, rows always or never solved now and then.

A row whose attempts all end alike gives no signal to training on rewards. The solve rate of every row is a running
mean; rows in the band are drawn in proportion to one weight, rows outside to another that is small but not zero, so
that every row is tried again and can come back.

References:
    Bae et al., "Online Difficulty Filtering for Reasoning Oriented Reinforcement Learning", EACL 2026,
    arXiv:2504.03380: keep rows with ``low <= solve rate <= high``.
    prime-rl, ``DifficultyPoolSampler``: weights over the solve rate in place of a filter; unseen rows weigh 1.

Deviations:
    The paper draws prompts and rejects those out of the band, at the cost of their attempts; here they are seldom drawn
    at all, by what their past attempts said. The thresholds are ours. The rate is a running mean, which attempts leave
    by ``decay`` per visit: with several attempts per visit the latest group speaks most, with one (right or wrong) the
    mean is what makes a rate of it.

Limits:
    One half is not a law: see `lightning_select.selectors.band`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.history import SampleHistory
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.beta_posterior import beta_posterior
from lightning_select.samplers.checks import between
from lightning_select.samplers.draw import WeightedDraw
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.picks import in_parts
from lightning_select.samplers.tries import tries
from lightning_select.types import Float, Int

__all__ = ["BalancedDifficulty", "balanced_difficulty"]

UNSEEN = 1.0
"""Weight of a row that was never tried."""

LEAST, MOST = 1e-4, 1e4
"""Smallest and largest weight: among 1e8 rows of the largest, a draw still tells the smallest from zero."""


def balanced_difficulty(
    rates: Float[Tensor, "rows"], low: float, high: float, inside: float = 1.0, outside: float = 0.1
) -> Float[Tensor, "rows"]:
    """Weights: ``inside`` for a solve rate in [low, high], ``outside`` for any other, 1 where none is known (NaN)."""
    weights = torch.where((rates >= low) & (rates <= high), inside, outside)
    return torch.where(rates.isnan(), UNSEEN, weights)


class BalancedDifficulty(OnlineSampler):
    """Draw rows in the band of solve rates with one weight, others with a smaller one, rows never tried with 1.

    Learns from ``success`` and ``attempts``, which come from rewards in [0, 1] of shape (rows, attempts) or from
    ``correct``. No row comes twice in a chunk, except where a chunk is larger than the dataset. Drawing and learning
    cost as much as the batch. Memory: 28 bytes per row.

    Args:
        dataset: What is sampled from, or its number of rows.
        low: Lowest solve rate in the band.
        high: Highest solve rate in the band.
        inside: Weight of a row in the band.
        outside: Weight of a row outside; positive, so that no row is lost.
        decay: Share of a row's counts of attempts that stays when it is tried again; 0: the latest visit alone counts.
        num_samples: Rows of one epoch; ``None``: as many as the dataset has.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> balanced_difficulty(torch.tensor([0.0, 0.25, 0.8, torch.nan]), low=0.25, high=0.75).tolist()
        [0.10000000149011612, 1.0, 0.10000000149011612, 1.0]
    """

    def __init__(
        self,
        dataset: Any,
        *,
        low: float = 0.25,
        high: float = 0.75,
        inside: float = 1.0,
        outside: float = 0.1,
        decay: float = 0.5,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        self.low, self.high = between(self.owner, "low", low, 0.0, 1.0), between(self.owner, "high", high, 0.0, 1.0)
        if low > high:
            raise ArgumentError(f"{self.owner}.low must be at most {self.owner}.high ({high}), got {low}.")
        self.inside = between(self.owner, "inside", inside, LEAST, MOST)
        self.outside = between(self.owner, "outside", outside, LEAST, MOST)
        self.decay = between(self.owner, "decay", decay, 0.0, 1.0)
        self.history = SampleHistory(self.rows, columns=("success",))
        self.weights = WeightedDraw(self.rows, fill=UNSEEN)

    @property
    def needs(self) -> frozenset[str]:
        """Successes and attempts."""
        return frozenset({"success"})

    def rates(self, ids: Int[Tensor, "k"]) -> Float[Tensor, "k"]:
        """Running mean of the solve rate of rows; NaN where a row was never tried."""
        successes, failures = self.history.beta(ids, self.updates)
        return torch.where(successes + failures > 0, beta_posterior(successes, failures), torch.nan)

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Rows in proportion to their weights."""
        parts = in_parts(count, self.rows)
        return Drawn(torch.cat([self.weights.draw(part, generator, replacement=False) for part in parts]))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Take the attempts into the rates, and the rates into the weights."""
        ids, successes, failures = tries(ids, signals)
        self.history.update(ids, self.updates, successes=successes, failures=failures, keep=float(self.decay))
        # Weights follow from what is known, so that writing those of row 0 in place of padding changes nothing.
        ids = ids.clamp_min(0)
        weights = balanced_difficulty(self.rates(ids), self.low, self.high, self.inside, self.outside)
        self.weights.set(ids, weights)

    def tensors(self) -> dict[str, Any]:
        """What is known, and the weights."""
        return {"history": self.history.state_dict(), "weights": self.weights.state_dict()}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what is known, and the weights."""
        self.history.load_state_dict(state["history"])
        self.weights.load_state_dict(state["weights"])

    def move(self, device: torch.device) -> None:
        """Move what is known, and the weights."""
        self.history.to(device)
        self.weights.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """Share of rows seen, share of those in the band, and how many rows the weights are worth."""
        rates, weights = self.rates(torch.arange(self.rows, device=self.device)), self.weights.weights.double()
        seen = (~rates.isnan()).sum()
        return {
            "seen": seen / self.rows,
            "in_band": ((rates >= self.low) & (rates <= self.high)).sum() / seen,
            "effective_share": weights.sum().square() / weights.square().sum() / self.rows,
        }
