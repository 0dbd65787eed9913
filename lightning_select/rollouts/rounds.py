"""One round: attempts at the prompts of a batch, their rewards, and which groups of them pass the filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_select import distributed
from lightning_select.errors import NonFiniteScoreError
from lightning_select.rollouts.groups import Group
from lightning_select.rollouts.passing import Filter, passing
from lightning_select.rollouts.policy import Attempts
from lightning_select.rollouts.refill import RefillBuffer
from lightning_select.rollouts.reward import Scorer, repeated
from lightning_select.rollouts.screening import Screening
from lightning_select.rollouts.tried import Part, Tried
from lightning_select.rollouts.uniforms import attempt_keys
from lightning_select.types import Float, Int

__all__ = ["Generate", "Rounds"]

Generate = Callable[[Sequence[str], int, "Int[Tensor, 'rows']"], Attempts]
"""Attempts at each of some prompts, with these keys."""


@dataclass(frozen=True)
class Rounds:
    """Makes rounds.

    Args:
        generate: Makes attempts.
        reward: Scores them, for training.
        metric: Scores them for the filter, for the samplers and for what counts as right; ``None``: as ``reward``.
        group_filter: Which groups train; ``None``: all.
        screening: How prompts are screened; ``None``: not at all.
        attempts: Attempts of a group.
        solved_at: An attempt whose metric reaches this is right.
        seed: Of the attempts.
    """

    generate: Generate
    reward: Scorer
    metric: Scorer | None
    group_filter: Filter | None
    screening: Screening | None
    attempts: int
    solved_at: float
    seed: int

    def __call__(
        self, prompts: Sequence[str], batch: Mapping[str, Any], buffer: RefillBuffer
    ) -> tuple[Float[Tensor, "rows attempts"], Group | None]:
        """Make a round, the groups of which go into ``buffer``.

        Returns:
            The metric of every attempt at the prompts of this rank, NaN where there is none; and a group to be shown.
        """
        number, world = buffer.counters.rounds, distributed.world_size()
        buffer.begin(sum(distributed.gather_objects(len(prompts))))
        metric = torch.full((len(prompts), self.attempts), torch.nan)
        waiting, shown = list(range(len(prompts))), None
        while True:
            missing = buffer.missing if buffer.refill.replacement == "at_once" else None
            size = len(waiting) if missing is None else -(-missing // world)
            rows, waiting = waiting[:size], waiting[size:]
            tried = self._attempt(rows, prompts, batch, number, buffer.counters.updates) if rows else None
            if tried is not None:
                metric[rows] = tried.matrix("metric")
                shown = shown or tried.group(0)
            left = self._hand_over(tried, len(waiting), buffer)
            if not left or buffer.missing == 0:
                break
        buffer.counters.add(rounds=1, untried=left)
        return metric, shown

    def _hand_over(self, tried: Tried | None, waiting: int, buffer: RefillBuffer) -> int:
        """Tell all ranks which groups passed; how many prompts wait for their attempts, over all ranks."""
        kept: list[Group] = []
        rejected: list[Group] = []
        sums: dict[str, int] = {}
        if tried is not None:
            kept, rejected = self._sorted_out(tried, and_rejected=buffer.refill.on_shortfall == "relax_band")
            sums = {**tried.sums(self.solved_at), "kept": len(kept)}
        told = distributed.gather_objects((kept, rejected, sums, waiting))
        for one, other, numbers, _ in told:
            buffer.add(one, other)
            buffer.counters.add(**numbers)
        return sum(left for *_, left in told)

    def _sorted_out(self, tried: Tried, *, and_rejected: bool) -> tuple[list[Group], list[Group]]:
        """Those that passed; and those that did not, if they may be of use. What was screened out is in neither."""
        whole = tried.whole
        if not whole:
            return [], []
        scored = tried.matrix("rewards")[whole].isfinite()
        # An attempt that stands alone has nobody to be judged against.
        scored &= scored.sum(dim=1, keepdim=True) > 1
        trains = passing(self.group_filter, tried.matrix("metric")[whole]) & scored
        passes = trains.any(dim=1).tolist()
        kept = [tried.group(row, trains[place]) for place, row in enumerate(whole) if passes[place]]
        others = [row for row, passed in zip(whole, passes, strict=True) if not passed] if and_rejected else []
        return kept, [tried.group(row) for row in others]

    def _attempt(
        self, rows: Sequence[int], prompts: Sequence[str], batch: Mapping[str, Any], number: int, updates: int
    ) -> Tried:
        """The attempts at some rows of the batch, which are screened if that is asked for."""
        places = [row * distributed.world_size() + distributed.rank() for row in rows]
        keys = attempt_keys(self.seed, number, torch.tensor(places), self.attempts).view(len(rows), self.attempts)
        size = self.attempts if self.screening is None else self.screening.attempts
        first, rest, promising = self._score(rows, keys[:, :size], prompts, batch), None, list[int]()
        if self.screening is not None:
            promising = self.screening.promising(first.metric).nonzero().flatten().tolist()
            if promising:
                rest = self._score([rows[place] for place in promising], keys[promising, size:], prompts, batch)
        asked = [prompts[row] for row in rows]
        return Tried(asked, [(number, place) for place in places], first, rest, promising, self.attempts, updates)

    def _score(
        self, rows: Sequence[int], keys: Int[Tensor, "rows some"], prompts: Sequence[str], batch: Mapping[str, Any]
    ) -> Part:
        """Some attempts at each of these rows, with their rewards and their metric."""
        attempts = self.generate([prompts[row] for row in rows], keys.shape[1], keys.flatten()).to("cpu")
        if not bool(attempts.log_probs.isfinite().all()):
            raise NonFiniteScoreError(
                "GRPO.policy must give finite log-probabilities to its attempts, got NaN or inf. Its weights hold NaN, "
                "or the precision is too narrow for its logits."
            )
        index = [row for row in rows for _ in range(keys.shape[1])]
        asked, told = [prompts[row] for row in index], repeated(batch, len(prompts), index)
        rewards = self.reward(asked, attempts.texts, told)
        metric = rewards if self.metric is None else self.metric(asked, attempts.texts, told)
        return Part(attempts, rewards.view(keys.shape), metric.view(keys.shape))
