"""Filters with a band: how far it is widened where too little passes, and what it means in attempts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lightning_select.rollouts.groups import Group, as_matrix
from lightning_select.rollouts.refill import Relax
from lightning_select.rollouts.rounds import Filter, passing

__all__ = ["relaxed", "told_band"]


def relaxed(group_filter: Filter | None, attempts: int) -> Relax | None:
    """Finds more groups as the filter's band is widened by one attempt at a time; ``None`` if it has none."""
    if not hasattr(group_filter, "widened"):
        return None

    def relax(rejected: Sequence[Group]) -> Iterator[Sequence[Group]]:
        wider: Any = group_filter
        while rejected and (next_one := wider.widened(attempts)) != wider:
            wider = next_one
            trains = passing(wider, as_matrix([group.metric for group in rejected]))
            pairs = zip(rejected, trains, strict=True)
            chosen = [(group, line[: len(group.metric)] & group.rewards.isfinite()) for group, line in pairs]
            yield [replace(group, trains=line) for group, line in chosen if bool(line.any())]

    return relax


def told_band(group_filter: Any, attempts: int) -> str:
    """What the filter lets through, in a sentence.

    Raises:
        ArgumentError: No number of right attempts passes.
    """
    if not hasattr(group_filter, "effective"):
        return f"Groups of {attempts} attempts train where {group_filter} lets them pass."
    least, most = group_filter.effective(attempts)
    return f"Groups train where {least} to {most} of {attempts} attempts are right, by {group_filter}."
