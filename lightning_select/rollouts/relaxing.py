"""Filters with a band: how far it is widened where too little passes, and what it means in attempts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_select.rollouts.groups import Group, as_matrix
from lightning_select.rollouts.passing import Filter, passing
from lightning_select.rollouts.refill import Relax

__all__ = ["Relaxed", "relaxed", "told_band"]


@dataclass(frozen=True)
class Relaxed:
    """Finds more groups as the band of a filter is widened by one attempt at a time.

    Args:
        group_filter: The filter, which has a method ``widened(attempts)``.
        attempts: Attempts of a group.
    """

    group_filter: Any
    attempts: int

    def __call__(self, rejected: Sequence[Group]) -> Iterator[Sequence[Group]]:
        """Those that pass, step by step, as far as the band goes."""
        wider = self.group_filter
        while rejected and (next_one := wider.widened(self.attempts)) != wider:
            wider = next_one
            trains = passing(wider, as_matrix([group.metric for group in rejected]))
            pairs = zip(rejected, trains, strict=True)
            chosen = [(group, line[: len(group.metric)] & group.rewards.isfinite()) for group, line in pairs]
            compared = [pair for pair in chosen if int(pair[0].rewards.isfinite().sum()) > 1]
            yield [replace(group, trains=line) for group, line in compared if bool(line.any())]


def relaxed(group_filter: Filter | None, attempts: int) -> Relax | None:
    """What widens the band of a filter; ``None`` if it has none."""
    return Relaxed(group_filter, attempts) if hasattr(group_filter, "widened") else None


def told_band(group_filter: Any, attempts: int) -> str:
    """What the filter lets through, in a sentence.

    Raises:
        ArgumentError: No number of right attempts passes.
    """
    if not hasattr(group_filter, "effective"):
        return f"Groups of {attempts} attempts train where {group_filter} lets them pass."
    least, most = group_filter.effective(attempts)
    return f"Groups train where {least} to {most} of {attempts} attempts are right, by {group_filter}."
