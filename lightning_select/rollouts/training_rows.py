"""The rows that an update trains on, and the order in which ranks and micro-batches go through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_select.rollouts.advantages import Scale, advantages
from lightning_select.rollouts.groups import Group, as_matrix, join, trimmed
from lightning_select.rollouts.losses.totals import Totals
from lightning_select.rollouts.policy import Attempts
from lightning_select.seeding import generator_at
from lightning_select.types import Float

__all__ = ["Micro", "TrainingRows", "minibatches"]


@dataclass(frozen=True)
class Micro:
    """What one backward pass is made of.

    Attributes:
        attempts: Its rows; those that only fill up to the number of other ranks have an empty mask.
        advantages: Theirs.
        totals: Attempts and tokens of the optimiser step that it is part of, over all ranks.
    """

    attempts: Attempts
    advantages: Float[Tensor, "rows"]
    totals: Totals


@dataclass(frozen=True)
class TrainingRows:
    """All attempts that an update trains on, the same on every rank.

    Attributes:
        attempts: The attempts.
        advantages: How much better each is than the others of its group.
    """

    attempts: Attempts
    advantages: Float[Tensor, "rows"]

    @classmethod
    def of(cls, groups: Sequence[Group], scale: Scale) -> TrainingRows:
        """Advantages are taken among the groups that passed, over all their attempts that have a reward."""
        sizes = advantages(as_matrix([group.rewards for group in groups]), scale)
        chosen = [group.trains.nonzero().flatten().tolist() for group in groups]
        return cls(
            join([group.attempts.take(rows) for group, rows in zip(groups, chosen, strict=True)]),
            torch.cat([line[rows] for line, rows in zip(sizes, chosen, strict=True)]),
        )

    def micros(self, rows: Sequence[int], size: int | None, rank: int, world: int) -> Iterator[Micro]:
        """One optimiser step on ``rows``: the share of this rank, in as many parts of ``size`` as any rank has."""
        mask = self.attempts.mask[list(rows)]
        totals = Totals(attempts=float(len(rows)), tokens=float(mask.sum()))
        most = -(-len(rows) // world)
        own = list(rows[rank::world])
        dead = [False] * len(own) + [True] * (most - len(own))
        own += [rows[0]] * (most - len(own))
        for start in range(0, most, size or most):
            place = slice(start, start + (size or most))
            attempts = trimmed(self.attempts.take(own[place]))
            attempts.mask.masked_fill_(torch.tensor(dead[place])[:, None], value=False)
            yield Micro(attempts, self.advantages[own[place]], totals)


def minibatches(rows: int, parts: int, *place: int) -> list[list[int]]:
    """All rows in an order made from ``place``, in ``parts`` parts, or as many as there are rows."""
    order = torch.randperm(rows, generator=generator_at(torch.device("cpu"), *place)).tolist()
    parts = min(parts, rows)
    return [order[rows * part // parts : rows * (part + 1) // parts] for part in range(parts)]
