"""Repeated random sampling: every epoch another random part of the data, in place of one part chosen for good.

A round of ``S = round(fraction * N)`` rows is one epoch, so learning rate schedules and progress bars are those of the
short run. It is the baseline that a method of selection has to beat with as many steps.

References:
    Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning", ICLR 2024,
    arXiv:2305.18424, algorithm 1 (with replacement: every round is drawn from all rows; without: rounds are cut from
    one permutation of all rows, then from the next one).

Deviations:
    Where a permutation ends inside a round, the released code hands out a shorter round, or rows of the same pass
    again (its position wraps at N + 1). Here the round takes the rows that are left and goes on in the next
    permutation, passing over rows that it holds already; these come next. Every pass still holds each row once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import between, switch
from lightning_select.samplers.drawn import Drawn
from lightning_select.seeding import generator_at
from lightning_select.states import check_range
from lightning_select.types import Int

__all__ = ["RepeatedRandom", "repeated_random"]


def repeated_random(
    following: Int[Tensor, "rows"], left: Int[Tensor, "left"], size: int
) -> tuple[Int[Tensor, "size"], Int[Tensor, "rows"]]:
    """A round of ``size`` rows over the seam of two passes, and the next pass in the order in which it is now used.

    ``left`` is what the old pass has not used; ``following`` is the next permutation of all rows.
    """
    held = torch.zeros_like(following, dtype=torch.bool).index_fill_(0, left, True).index_select(0, following)
    fresh = following[~held][: size - len(left)]
    taken = torch.zeros_like(held).index_fill_(0, fresh, True).index_select(0, following)
    return torch.cat([left, fresh]), torch.cat([fresh, following[~taken]])


class RepeatedRandom(OnlineSampler):
    """Draw another random part of the data in every epoch.

    The rows of an epoch are planned when it begins, which costs a pass over all rows; a draw costs what it draws. No
    row comes twice in an epoch, except that ranks which share it unevenly get some of its first rows again. The state
    holds the rows of one epoch, not of the dataset.

    Args:
        dataset: What is sampled from, or its number of rows.
        fraction: Rows of an epoch as a share of the dataset; at least one row is drawn.
        replacement: May a row come again before all have come? Inside an epoch none does.
        num_samples: Rows of an epoch in place of ``fraction``.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> sampler = RepeatedRandom(10, fraction=0.5)
        >>> sorted([*sampler, *sampler])
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    loose = frozenset({"plan", "seam"})

    def __init__(
        self,
        dataset: Sized | int,
        *,
        fraction: float = 0.1,
        replacement: bool = False,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        self.fraction = between(self.owner, "fraction", fraction, 0.0, 1.0)
        self.replacement = switch(self.owner, "replacement", replacement)
        self._size = max(1, round(self.fraction * self.rows)) if num_samples is None else self._epoch_rows
        if self._size > self.rows:
            raise ArgumentError(f"{self.owner}.num_samples must be at most {self.rows}, all rows, got {num_samples}.")
        self._pass, self._used = 0, 0
        # How the pass began: rows that its first round had from the pass before, and the size of that round.
        self._seam, self._cut = torch.zeros(0, dtype=torch.int64, device="cpu"), self._size
        self._order: Tensor | None = None  # of this pass; not in the state, since it follows from the rest
        self._plan, self._place = self._seam, 0

    def rows_of_epoch(self) -> int:
        """Rows of a round."""
        return self._size

    def begin(self) -> None:
        """Plan the next round."""
        plan = self._permutation(self.epoch)[: self._size] if self.replacement else self._next_round()
        self._plan, self._place = plan.to(self.device), 0

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The next rows of the round, and after its last one its first again."""
        if len(self._plan) == 0:
            self.begin()
        start = self._place % len(self._plan)
        self._place += count
        if start + count <= len(self._plan):
            return Drawn(self._plan[start : start + count])
        places = torch.arange(start, start + count, device=self.device) % len(self._plan)
        return Drawn(self._plan.index_select(0, places))

    def tensors(self) -> dict[str, Any]:
        """The round, and where in which pass it ends."""
        place = [self._place, self._pass, self._used, self._cut]
        return {"place": place, "plan": self._plan.clone(), "seam": self._seam.clone()}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what `tensors` gave."""
        for number, most in zip(state["place"], (math.inf, math.inf, self.rows, self.rows), strict=True):
            check_range(self.owner, "place", number, 0, most)
        for name in ("plan", "seam"):
            check_range(self.owner, name, state[name], 0, self.rows - 1)
            check_range(self.owner, f"rows of {name}", len(state[name]), 0, self.rows)
        self._place, self._pass, self._used, self._cut = state["place"]
        self._plan, self._seam, self._order = state["plan"].to(self.device), state["seam"].cpu(), None

    def move(self, device: torch.device) -> None:
        """Move the plan."""
        self._plan = self._plan.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """How often all rows were gone through."""
        rounds = (self.epoch + 1) * self._size if self.replacement else self._pass * self.rows + self._used
        return {"passes": rounds / self.rows}

    def _next_round(self) -> Int[Tensor, "size"]:
        if self._order is None:
            self._order = self._order_of_pass()
        round_ = self._order[self._used : self._used + self._size]
        self._used += len(round_)
        if len(round_) == self._size:
            return round_
        left, self._pass = round_, self._pass + 1
        round_, self._order = repeated_random(self._permutation(self._pass), left, self._size)
        self._used, self._seam, self._cut = self._size - len(left), left, self._size
        return round_

    def _order_of_pass(self) -> Int[Tensor, "rows"]:
        order = self._permutation(self._pass)
        return repeated_random(order, self._seam, self._cut)[1] if len(self._seam) else order

    def _permutation(self, number: int) -> Int[Tensor, "rows"]:
        """Made on the CPU, so that it is the same wherever the model is."""
        cpu = torch.device("cpu")
        return torch.randperm(self.rows, generator=generator_at(cpu, self.seed, number), device=cpu)
