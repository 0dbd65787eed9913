"""Rows of groups in shuffled order, every group in a queue of its own that starts anew, reshuffled, when it is used up.

The order is never stored as it changes: the place of a group's n-th row is a function of (seed, group, pass, n), so a
queue is one cursor, and a draw costs what it takes, not what the groups hold. Rows are shuffled once when the queues
are made, and every pass shuffles the places in that order again by some rounds of a swap-or-not network. Each pass is
thus a uniformly random order by itself, and exactly a permutation; how little one pass tells about another depends on
the rounds.

References:
    Viet Tung Hoang, Ben Morris and Phillip Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012,
    arXiv:1208.1176: the swap-or-not shuffle (figure 1), a permutation of any number of places.

Deviations:
    Few rounds and a plain mixing function in place of a cipher: nobody attacks a sampler.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.seeding import FIRST, SECOND, STEP, generator_at, mixed
from lightning_select.types import Int

__all__ = ["GroupQueues", "shuffled_place"]

ROUNDS = 16
"""A place that no round moves has a chance of 2^-16 per pass."""


class GroupQueues:
    """A queue of rows for every group. Nothing here waits for the device.

    Args:
        labels: Group of every row, in [0, groups).
        groups: Number of groups; each must have a row.
        seed: Seed of the orders.

    Raises:
        ArgumentError: A label is out of range, or a group has no row.

    Example:
        >>> queues = GroupQueues(torch.tensor([0, 1, 0, 1, 1]), 2, seed=0)
        >>> queues.take(torch.tensor([1, 0, 1, 1, 0])).sort().values.tolist()
        [0, 1, 2, 3, 4]
    """

    def __init__(self, labels: Int[Tensor, "rows"], groups: int, seed: int) -> None:
        labels, cpu = labels.long().cpu(), torch.device("cpu")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < groups:
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise ArgumentError(f"GroupQueues.labels must be in [0, {groups}), got {wrong}.")
        sizes = torch.bincount(labels, minlength=groups)
        if groups < 1 or not bool((sizes > 0).all()):
            empty = int((sizes == 0).nonzero()[0]) if groups > 0 else 0
            raise ArgumentError(f"GroupQueues.labels must give every group a row, got none for group {empty}.")
        self.groups = groups
        mixed = torch.randperm(len(labels), generator=generator_at(cpu, seed, 0), device=cpu)
        self._order = mixed[labels[mixed].argsort(stable=True)]
        self._sizes, self._starts = sizes, sizes.cumsum(0) - sizes
        self._cursors = torch.zeros_like(sizes)
        self._key = int(torch.randint(2**62, (), generator=generator_at(cpu, seed, 1), device=cpu))

    @property
    def device(self) -> torch.device:
        """Where the queues are, and where the groups that are asked for must be."""
        return self._order.device

    @property
    def sizes(self) -> Int[Tensor, "groups"]:
        """Rows of every group."""
        return self._sizes

    @property
    def taken(self) -> Int[Tensor, "groups"]:
        """Rows taken from every group so far, repeats included; divided by `sizes`, the passes over the group."""
        return self._cursors

    def take(self, groups: Int[Tensor, "count"]) -> Int[Tensor, "count"]:
        """The next rows of these groups, in the order of ``groups``; a group may come more often than it has rows."""
        ordered, where = groups.sort(stable=True)
        ends = torch.searchsorted(ordered, torch.arange(self.groups, device=self.device), right=True)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        # How many of the same group came before, in this call.
        before = torch.arange(len(groups), device=self.device) - starts.index_select(0, ordered)
        number = self._cursors.index_select(0, ordered) + before
        size = self._sizes.index_select(0, ordered)
        turn = number.div(size, rounding_mode="floor")
        place = shuffled_place(number - turn * size, size, mixed(mixed(ordered + self._key) + turn))
        self._cursors = self._cursors + (ends - starts)
        rows = self._order.index_select(0, self._starts.index_select(0, ordered) + place)
        return torch.empty_like(rows).scatter_(0, where, rows)

    def to(self, device: torch.device | str) -> GroupQueues:
        """Move the queues, and return this very object."""
        self._order, self._sizes = self._order.to(device), self._sizes.to(device)
        self._starts, self._cursors = self._starts.to(device), self._cursors.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """How far each queue is; its order follows from the seed."""
        return {"cursors": self._cursors.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ConfigurationError: The state is of another number of groups.
        """
        cursors = state["cursors"]
        if len(cursors) != self.groups:
            raise ConfigurationError(
                f"GroupQueues.groups must be as many as in the state ({len(cursors)}), got {self.groups}: "
                "the groups of the dataset have changed since then."
            )
        self._cursors = cursors.to(self.device)


def shuffled_place(
    places: Int[Tensor, "count"], sizes: Int[Tensor, "count"], keys: Int[Tensor, "count"]
) -> Int[Tensor, "count"]:
    """Where each of ``places`` in [0, size) goes, under the permutation of that size which its key stands for.

    In every round a key mirrors the places, x to (mirror - x) mod size, and a bit that both places of such a pair share
    says whether the pair swaps.
    """
    rounds = torch.arange(1, ROUNDS + 1, device=places.device).unsqueeze(1)
    bits = mixed(keys + rounds * STEP)
    mirrors = mixed(bits).bitwise_and_(2**62 - 1).remainder_(sizes)
    for bit, mirror in zip(bits.unbind(), mirrors.unbind(), strict=True):
        partners = mirror - places
        partners += sizes * (partners < 0)
        coins = torch.maximum(places, partners).add_(bit).mul_(FIRST)
        coins.bitwise_xor_(coins >> 32).mul_(SECOND)
        places = torch.where(coins < 0, partners, places)
    return places
