"""The attempts of a round with their rewards, as matrices; groups are made of those rows alone that are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_select.rollouts.groups import Group, join, trimmed
from lightning_select.rollouts.policy import Attempts
from lightning_select.types import Bool, Float

__all__ = ["Part", "Tried"]


@dataclass(frozen=True)
class Part:
    """Equally many attempts at each of some prompts.

    Attributes:
        attempts: Those at one prompt next to each other.
        rewards: NaN where an attempt cannot be scored.
        metric: What filters, samplers and counters go by.
    """

    attempts: Attempts
    rewards: Float[Tensor, "rows some"]
    metric: Float[Tensor, "rows some"]

    def at(self, row: int) -> Attempts:
        """The attempts at one prompt."""
        some = self.rewards.shape[1]
        return self.attempts.take(range(row * some, (row + 1) * some))


@dataclass(frozen=True)
class Tried:
    """All attempts at some prompts of a batch.

    Attributes:
        prompts: The prompts.
        places: Round, and row of the round over all ranks, of each.
        first: The attempts at all of them.
        rest: Those at the promising ones, where prompts were screened.
        promising: Which prompts these are, in order.
        sizes: Attempts of a group.
        born: Updates that the policy had had.
    """

    prompts: list[str]
    places: list[tuple[int, int]]
    first: Part
    rest: Part | None
    promising: list[int]
    sizes: int
    born: int

    def matrix(self, name: str) -> Float[Tensor, "rows attempts"]:
        """``rewards`` or ``metric`` of every attempt; NaN where none was made."""
        first: Tensor = getattr(self.first, name)
        if first.shape[1] == self.sizes:
            return first
        found = torch.full((len(self.prompts), self.sizes), torch.nan)
        found[:, : first.shape[1]] = first
        if self.rest is not None:
            found[self.promising, first.shape[1] :] = getattr(self.rest, name)
        return found

    @property
    def whole(self) -> list[int]:
        """Prompts at which all attempts were made."""
        return list(range(len(self.prompts))) if self.first.rewards.shape[1] == self.sizes else self.promising

    def group(self, row: int, trains: Bool[Tensor, "attempts"] | None = None) -> Group:
        """The group of one prompt; without ``trains`` all attempts that have a reward train."""
        parts = [self.first.at(row)]
        rewards, metric = [self.first.rewards[row]], [self.first.metric[row]]
        if self.rest is not None and row in self.promising:
            place = self.promising.index(row)
            parts.append(self.rest.at(place))
            rewards.append(self.rest.rewards[place])
            metric.append(self.rest.metric[place])
        earned = torch.cat(rewards)
        return Group(
            prompt=self.prompts[row],
            attempts=trimmed(join(parts)),
            rewards=earned,
            metric=torch.cat(metric),
            trains=earned.isfinite() if trains is None else trains.clone(),
            born=self.born,
            place=self.places[row],
        )

    def sums(self, solved_at: float) -> dict[str, int]:
        """What it cost, and how many groups failed or were solved as a whole; those screened out are neither."""
        metric = self.matrix("metric")[self.whole]
        counted, right = metric.isfinite(), metric >= solved_at
        scored = counted.any(dim=1)
        parts = [self.first] if self.rest is None else [self.first, self.rest]
        found = {
            "tokens": sum(part.attempts.mask.sum() for part in parts),
            "unscorable": sum(part.rewards.isnan().sum() for part in parts),
            "all_failed": (scored & ~right.any(dim=1)).sum(),
            "all_solved": (scored & (right | ~counted).all(dim=1)).sum(),
        }
        return {
            "prompts": len(self.prompts),
            "attempts": sum(len(part.attempts) for part in parts),
            "screened_out": len(self.prompts) - len(self.whole),
            **{name: int(value) for name, value in found.items()},
        }
