"""Rows in proportion to a power of their loss: what the model gets wrong comes back soon, what it knows stays away.

The chance of a row is ``P(i) = p_i^alpha / sum_k p_k^alpha`` with ``p_i`` the running mean of its loss plus a floor. A
draw follows the very last update. Since rows of large loss come too often, each may count less in turn:
``w_i = (1/N * 1/P(i))^beta``, from the chance that it had when it was drawn.

References:
    Schaul, Quan, Antonoglou and Silver, "Prioritized Experience Replay", ICLR 2016, arXiv:1511.05952: equation 1
    (chances), section 3.4 (weights), algorithm 1 (a new row has the largest priority so far).

Deviations:
    The priority is a running mean of the loss in place of the last temporal-difference error.
    Weights are divided by their mean over the chunk, not by the largest of all rows: the loss of a batch keeps its
    size, so the learning rate keeps its meaning, and no pass over all rows is needed.
    A row without a loss has the largest running mean so far at any time, not only when it came.

Honest limits:
    Rows with wrong labels have large losses for ever and come ever more often; a reducible loss tells them apart.
    Without a floor, a row whose loss went to zero is not drawn again, so nobody notices if it is forgotten.
    With workers, a new row may be drawn again before the first batch that holds it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from lightning_select.history import SampleHistory
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import between, switch
from lightning_select.samplers.draw import WeightedDraw
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.picks import effective_share, in_parts
from lightning_select.schedule import Anneal
from lightning_select.types import Float, Int

__all__ = ["LossProportional", "importance", "loss_proportional"]

LEAST, MOST = 1e-30, 1e30
"""Bounds of a weight. Next to any loss worth the name a row at the lower one is never drawn, and yet if all are there,
all are drawn alike."""

ABSENT = 1e-37
"""Weight of a row in the pool to which it does not belong."""


def loss_proportional(losses: Float[Tensor, "*rows"], *, alpha: float, floor: float = 0.0) -> Float[Tensor, "*rows"]:
    """Weights ``(loss + floor)^alpha``, not normalised; a loss below 0 counts as 0."""
    return losses.clamp(min=0.0).add(floor).pow(alpha).clamp(LEAST, MOST)


def importance(chances: Float[Tensor, "rows"], rows: int, *, beta: float) -> Float[Tensor, "rows"]:
    """How strongly rows count that were drawn with these chances out of ``rows``, with a mean of one."""
    weights = (rows * chances).pow(-beta)
    return weights / weights.mean()


class LossProportional(OnlineSampler):
    """Draw rows in proportion to a power of their loss.

    Rows whose loss is not known yet are a pool of their own. A draw decides between the pools in proportion to their
    sums, so a new largest loss changes one number and not the weights of all these rows. Losses below zero count as
    zero (log likelihoods of densities want another sampler); the metric ``negative`` tells how many there are. Where
    all losses are zero, all rows are drawn alike. A draw costs what it draws. An annealed ``alpha`` costs a pass over
    all rows at every draw before which it has moved.

    Args:
        dataset: What is sampled from, or its number of rows.
        alpha: How much the loss counts: 0 not at all, 1 in proportion.
        floor: Added to each loss, so that rows of loss zero are drawn now and then.
        decay: How much of the running mean of a row's loss stays when a new loss comes in; 0 is the last loss.
        beta: How much of the bias is corrected by weights of the rows: 0 none, 1 all; ``None`` gives no weights.
        replacement: May a row come twice in a chunk? A chunk is one batch of all ranks. ``beta`` then goes by the
            chance to be drawn first.
        num_samples: Rows of one epoch, of all ranks together; ``None`` is the length of the dataset.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> sampler = LossProportional(3)
        >>> sampler.observe(torch.arange(3), {"loss": torch.tensor([0.0, 2.0, 0.0])})
        >>> list(sampler)
        [1, 1, 1]
    """

    def __init__(
        self,
        dataset: Sized | int,
        *,
        alpha: float | Anneal = 1.0,
        floor: float = 0.0,
        decay: float = 0.9,
        beta: float | Anneal | None = None,
        replacement: bool = True,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        self.alpha = between(self.owner, "alpha", alpha, 0.0, 10.0, anneal=True)
        self.floor = between(self.owner, "floor", floor, 0.0, 1e6)
        self.decay = between(self.owner, "decay", decay, 0.0, 0.9999)
        self.beta = None if beta is None else between(self.owner, "beta", beta, 0.0, 1.0, anneal=True)
        self.replacement = switch(self.owner, "replacement", replacement)
        self._history = SampleHistory(self.rows, decay=self.decay, device=self.device)
        # One row more than there are: what is not to be changed is led there.
        self._known = WeightedDraw(self.rows + 1, fill=ABSENT, device=self.device)
        self._new = WeightedDraw(self.rows + 1, device=self.device)
        self._new.set(*self._spare(0.0))
        self._known.set(*self._spare(0.0))
        self._largest = torch.zeros((), device=self.device)
        self._power = float("nan")  # the alpha in the weights

    @property
    def needs(self) -> frozenset[str]:
        """Losses."""
        return frozenset({"loss"})

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The next rows; where none may come twice and there are too few, each comes once before any comes again."""
        self._raise_to(float(self.resolve(self.alpha)))
        if self.replacement:
            ids = self._draw_repeated(count, generator)
        else:
            ids = torch.cat([self._draw_different(part, generator) for part in in_parts(count, self.rows)])
        if self.beta is None:
            return Drawn(ids)
        return Drawn(ids, importance(self._chances(ids), self.rows, beta=self.resolve(self.beta)))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Take in losses; one that is not finite says nothing."""
        if len(ids) == 0:
            return
        self._history.update(ids, self.updates, loss=signals["loss"])
        means = self._history.read("ema_loss", ids)
        known = means.isfinite()
        places = ids.masked_fill(~known, self.rows)
        weights = loss_proportional(means, alpha=self._alpha(), floor=self.floor)
        self._known.set(places, torch.where(known, weights, 0.0))
        self._new.set(places, torch.where(known, ABSENT, 0.0))
        self._largest = torch.maximum(self._largest, torch.where(known, means, 0.0).amax())

    def tensors(self) -> dict[str, Any]:
        """Running means, and the weights made of them."""
        return {
            "history": self._history.state_dict(),
            "known": self._known.state_dict(),
            "new": self._new.state_dict(),
            "largest": self._largest.clone(),
            "power": self._power,
        }

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what `tensors` gave."""
        self._history.load_state_dict(state["history"])
        self._known.load_state_dict(state["known"])
        self._new.load_state_dict(state["new"])
        self._largest, self._power = state["largest"].to(self.device), float(state["power"])

    def move(self, device: torch.device) -> None:
        """Move what is learnt to the device of the model."""
        self._history.to(device)
        self._known.to(device)
        self._new.to(device)
        self._largest = self._largest.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """Shares of rows: ``seen``; ``negative`` of these; ``effective``, the sample size in terms of equal weights."""
        means = self._history.ema_loss
        seen = means.isfinite()
        weights = torch.where(seen, self._known.weights[: self.rows], self._weight_of_new()).double()
        return {
            "seen": seen.float().mean(),
            "negative": (means < 0).sum() / seen.sum().clamp(min=1),
            "loss": torch.where(seen, means, 0.0).sum() / seen.sum().clamp(min=1),
            "effective": effective_share(weights),
        }

    def _alpha(self) -> float:
        """The power that is in the weights; the first one before any draw."""
        if self._power != self._power:
            self._power = float(self.resolve(self.alpha))
        return self._power

    def _raise_to(self, alpha: float) -> None:
        """Have all weights raised to this power; a pass over all rows, where it is another than before."""
        if self._alpha() == alpha:
            return
        self._power, means = alpha, self._history.ema_loss
        weights = torch.where(means.isfinite(), loss_proportional(means, alpha=alpha, floor=self.floor), ABSENT)
        self._known.set_all(torch.cat([weights, weights.new_zeros(1)]))

    def _weight_of_new(self) -> Float[Tensor, ""]:
        return loss_proportional(self._largest, alpha=self._alpha(), floor=self.floor).double()

    def _sum_of_new(self) -> Float[Tensor, ""]:
        # Rounded, since rows that do not belong there have a weight, too: with none left, this is exactly zero.
        return self._new.total.round() * self._weight_of_new()

    def _draw_repeated(self, count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
        known, new = self._known.draw(count, generator), self._new.draw(count, generator)
        coins = torch.rand(count, generator=generator, dtype=torch.float64, device=self.device)
        sum_of_new = self._sum_of_new()
        return torch.where(coins * (sum_of_new + self._known.total) < sum_of_new, new, known)

    def _draw_different(self, count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
        """One row after the other from both pools: the order of times ``Exp(1) / weight``, the earliest first.

        Inside a pool the order is drawn already. Given the order, the wait for the next row is exponential at the rate
        of what is left in the pool; these waits are all that is needed to put both orders into one.
        """
        ids, times = [], []
        for pool, weight in ((self._known, 1.0), (self._new, self._weight_of_new())):
            rows = pool.draw(count, generator, replacement=False)
            own = pool.weights.index_select(0, rows).double()
            left = torch.maximum(pool.total - _running_sum(own) + own, own) * weight
            uniform = torch.rand(count, generator=generator, dtype=torch.float64, device=self.device)
            waits = -torch.log(uniform.clamp(min=torch.finfo(torch.float64).tiny)) / left
            times.append(_running_sum(waits).masked_fill(own < 2 * ABSENT, torch.inf))
            ids.append(rows)
        return torch.cat(ids).index_select(0, torch.cat(times).topk(count, largest=False).indices)

    def _chances(self, ids: Int[Tensor, "count"]) -> Float[Tensor, "count"]:
        new = self._new.weights.index_select(0, ids) > 2 * ABSENT
        weights = torch.where(new, self._weight_of_new(), self._known.weights.index_select(0, ids).double())
        return weights / (self._sum_of_new() + self._known.total)

    def _spare(self, weight: float) -> tuple[Int[Tensor, "1"], Float[Tensor, "1"]]:
        return torch.full((1,), self.rows, device=self.device), torch.full((1,), weight, device=self.device)


def _running_sum(values: Float[Tensor, "count"]) -> Float[Tensor, "count"]:
    """As ``cumsum``, which on CUDA a Trainer(deterministic=True) refuses for floats."""
    reach = 1
    while reach < len(values):
        values = torch.cat([values[:reach], values[reach:] + values[:-reach]])
        reach *= 2
    return values
