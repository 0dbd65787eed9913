"""A mixture of groups with fixed shares: as many rows of each as its share says, not only on average.

Every group earns credit by its share of the rows that are drawn and pays one for each of its rows. What a chunk owes
a group beyond whole rows is carried to the next one, so after any number of rows each group is within about one row of
its share. Inside a group, rows come in shuffled order and none comes again before all have come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.checks import between
from lightning_select.samplers.queues import GroupQueues
from lightning_select.states import check_range, check_state
from lightning_select.types import Bool, Float, Int

__all__ = ["Mixture", "apportioned", "shares_of"]

_MOST_OWED = 1e4
"""Rows that a group is never owed by far; working off more would take time."""


def apportioned(credit: Float[Array, "groups"], count: int, live: Bool[Array, "groups"]) -> Int[Array, "groups"]:
    """``count`` rows split by credit: the whole part for each, and one more where the largest remainders are.

    Only ``live`` groups get rows. Of equal remainders the first in order wins.
    """
    rows = np.where(live, np.floor(credit).clip(0), 0.0).astype(np.int64)
    while (missing := count - int(rows.sum())) != 0:
        step, able = (1, live) if missing > 0 else (-1, rows > 0)
        order = np.argsort(np.where(able, step * (rows - credit), np.inf), kind="stable")
        rows[order[: min(abs(missing), int(able.sum()))]] += step
    return rows


def shares_of(owner: str, name: str, weights: Any, groups: Sequence[Any]) -> Float[Tensor, "groups"]:
    """Shares that sum to one, from a mapping of every group to a weight.

    Raises:
        ArgumentError: A group is unknown or missing, a weight is negative or not finite, or all are zero.
    """
    if not isinstance(weights, Mapping):
        raise ArgumentError(f"{owner}.{name} must map every group to its share, got {weights!r}.")
    known = set(groups)
    for group in weights:
        if group not in known:
            raise ArgumentError(f"{owner}.{name} must name groups of the dataset ({_few(groups)}), got {group!r}.")
    for group in groups:
        if group not in weights:
            raise ArgumentError(
                f"{owner}.{name} must give a share to every group, got none for {group!r}. 0 leaves a group out."
            )
        between(owner, f"{name}[{group!r}]", weights[group], 0.0, 1e30)
    total = sum(weights.values())
    if total <= 0:
        raise ArgumentError(f"{owner}.{name} must give a share above 0 to some group, got zeros only.")
    return torch.tensor([weights[group] / total for group in groups], dtype=torch.float64, device="cpu")


def _few(groups: Sequence[Any]) -> str:
    return ", ".join(repr(group) for group in groups[:10]) + (", ..." if len(groups) > 10 else "")


class Mixture:
    """Queues of groups, and what each group is owed. What a chunk holds of each is worked out on the host.

    Args:
        names: The groups.
        labels: Group of every row, as a position among ``names``.
        seed: Seed of the orders.
    """

    def __init__(self, names: Sequence[Any], labels: Int[Tensor, "rows"], seed: int) -> None:
        self.names = list(names)
        self._queues = GroupQueues(labels, len(names), seed)
        self._credit = np.zeros(len(names))

    def take(self, shares: Float[Tensor, "groups"], count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
        """``count`` rows in shuffled order, of each group by its share; ``shares``, on the CPU, sum to one."""
        owed = shares.numpy()
        self._credit += owed * count
        rows = apportioned(self._credit, count, owed > 0)
        self._credit -= rows
        device = self._queues.device
        groups = torch.from_numpy(np.repeat(np.arange(len(rows)), rows)).to(device, non_blocking=True)
        mixed = torch.randperm(count, generator=generator, device=device)
        return self._queues.take(groups.index_select(0, mixed))

    def passes(self) -> Float[Tensor, "groups"]:
        """How often each group was gone through."""
        return self._queues.taken / self._queues.sizes

    def to(self, device: torch.device) -> None:
        """Move the queues; what is owed stays on the host."""
        self._queues.to(device)

    def state_dict(self) -> dict[str, Any]:
        """How far the queues are, and what is owed."""
        return {"queues": self._queues.state_dict(), "credit": torch.from_numpy(self._credit.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._queues.load_state_dict(state["queues"])
        check_state("Mixture", state["credit"], torch.from_numpy(self._credit), path="credit")
        check_range("Mixture", "credit", state["credit"], -_MOST_OWED, _MOST_OWED)
        self._credit = state["credit"].cpu().numpy().copy()
