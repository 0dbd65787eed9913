"""One round: attempts at the prompts of a batch, their rewards, and which groups of them pass the filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_select import distributed
from lightning_select.errors import SelectorError
from lightning_select.rollouts.groups import Group, as_matrix, join, trimmed
from lightning_select.rollouts.policy import Attempts
from lightning_select.rollouts.refill import RefillBuffer
from lightning_select.rollouts.reward import Scorer, repeated
from lightning_select.rollouts.screening import Screening
from lightning_select.rollouts.uniforms import attempt_keys
from lightning_select.types import Bool, Float, Int

__all__ = ["Filter", "Generate", "Rounds", "passing"]

Generate = Callable[[Sequence[str], int, "Int[Tensor, 'rows']"], Attempts]
"""Attempts at each of some prompts, with these keys."""

Filter = Callable[[Tensor], Any]
"""``rewards (groups, attempts) -> bool``: which groups train (groups,), or which attempts (groups, attempts)."""


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
            groups = self._attempt(rows, prompts, batch, number, buffer.counters.updates) if rows else []
            for row, group in zip(rows, groups, strict=True):
                metric[row, : len(group.metric)] = group.metric
            shown = shown or next(iter(groups), None)
            left = self._hand_over(groups, len(waiting), buffer)
            if not left or buffer.missing == 0:
                break
        untried = sum(distributed.gather_objects(len(waiting)))
        buffer.counters.add(rounds=1, untried=untried)
        return metric, shown

    def _hand_over(self, groups: Sequence[Group], waiting: int, buffer: RefillBuffer) -> int:
        """Tell all ranks which groups passed; how many prompts wait for their attempts, over all ranks."""
        kept, rejected = self._sorted_out(groups)
        keeps_rejected = buffer.refill.on_shortfall == "relax_band"
        told = distributed.gather_objects((kept, rejected if keeps_rejected else [], self._sums(groups, kept), waiting))
        for one, other, sums, _ in told:
            buffer.add(one, other)
            buffer.counters.add(**sums)
        return sum(left for *_, left in told)

    def _sorted_out(self, groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
        kept: list[Group] = []
        rejected: list[Group] = []
        whole = [group for group in groups if len(group.metric) == self.attempts]  # the others were screened out
        if not whole:
            return kept, rejected
        trains = passing(self.group_filter, as_matrix([group.metric for group in whole]))
        for group, attempts in zip(whole, trains, strict=True):
            chosen = attempts & group.rewards.isfinite()
            passes = bool(chosen.any())
            (kept if passes else rejected).append(replace(group, trains=chosen if passes else group.trains))
        return kept, rejected

    def _sums(self, groups: Sequence[Group], kept: Sequence[Group]) -> dict[str, int]:
        right = [group.metric >= self.solved_at for group in groups]
        counted = [~group.metric.isnan() for group in groups]
        scored = [(good, there) for good, there in zip(right, counted, strict=True) if bool(there.any())]
        return {
            "prompts": len(groups),
            "attempts": sum(len(group.metric) for group in groups),
            "tokens": sum(int(group.attempts.mask.sum()) for group in groups),
            "unscorable": sum(int(group.rewards.isnan().sum()) for group in groups),
            "kept": len(kept),
            "all_failed": sum(not bool(good.any()) for good, _ in scored),
            "all_solved": sum(bool((good | ~there).all()) for good, there in scored),
            "screened_out": sum(len(group.metric) < self.attempts for group in groups),
        }

    def _attempt(
        self, rows: Sequence[int], prompts: Sequence[str], batch: Mapping[str, Any], number: int, updates: int
    ) -> list[Group]:
        """The groups of some rows of the batch, screened if that is asked for."""
        world, rank = distributed.world_size(), distributed.rank()
        places = torch.tensor([row * world + rank for row in rows])
        keys = attempt_keys(self.seed, number, places, self.attempts).view(len(rows), self.attempts)
        first = self.attempts if self.screening is None else self.screening.attempts
        parts = {
            row: [part] for row, part in zip(rows, self._score(rows, keys[:, :first], prompts, batch), strict=True)
        }
        if self.screening is not None:
            looked_at = torch.stack([part[0][2] for part in parts.values()])
            chosen = self.screening.promising(looked_at).nonzero().flatten().tolist()
            more = [rows[index] for index in chosen]
            if more:
                rest = self._score(more, keys[chosen, first:], prompts, batch)
                for row, part in zip(more, rest, strict=True):
                    parts[row].append(part)
        return [
            Group(
                prompt=prompts[row],
                attempts=trimmed(join([attempts for attempts, _, _ in parts[row]])),
                rewards=(rewards := torch.cat([rewards for _, rewards, _ in parts[row]])),
                metric=torch.cat([metric for _, _, metric in parts[row]]),
                trains=rewards.isfinite(),
                born=updates,
                place=(number, row * world + rank),
            )
            for row in rows
        ]

    def _score(
        self, rows: Sequence[int], keys: Int[Tensor, "rows some"], prompts: Sequence[str], batch: Mapping[str, Any]
    ) -> list[tuple[Attempts, Tensor, Tensor]]:
        """Some attempts at each of these rows: the attempts, their rewards and their metric."""
        some = keys.shape[1]
        attempts = self.generate([prompts[row] for row in rows], some, keys.flatten()).to("cpu")
        index = [row for row in rows for _ in range(some)]
        asked, told = [prompts[row] for row in index], repeated(batch, len(prompts), index)
        rewards = self.reward(asked, attempts.texts, told)
        metric = rewards if self.metric is None else self.metric(asked, attempts.texts, told)
        places = [range(start * some, (start + 1) * some) for start in range(len(rows))]
        return [(attempts.take(place), rewards[list(place)], metric[list(place)]) for place in places]


def passing(group_filter: Filter | None, metric: Float[Tensor, "groups attempts"]) -> Bool[Tensor, "groups attempts"]:
    """Which attempts a filter lets through.

    Raises:
        SelectorError: It returned something else than one answer per group, or per attempt.
    """
    if group_filter is None:
        return torch.ones_like(metric, dtype=torch.bool)
    found = group_filter(metric)
    shapes = (metric.shape[:1], metric.shape)
    if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape not in shapes:
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        name = getattr(group_filter, "__name__", type(group_filter).__name__)
        raise SelectorError(
            f"{name} must return one bool for each of {metric.shape[0]} groups, or of their attempts, got {got}."
        )
    return (found[:, None] if found.dim() == 1 else found).expand(metric.shape)
