"""How many rows of a candidate batch are kept."""

from __future__ import annotations

from lightning_select.errors import ArgumentError
from lightning_select.schedule import Anneal

__all__ = ["check_keep", "kept_count"]


def kept_count(keep: float | int, rows: int) -> int:
    """How many of ``rows`` rows are kept: a share is rounded to the nearest count, and is never none.

    Example:
        >>> kept_count(0.25, 32), kept_count(0.01, 32), kept_count(8, 32), kept_count(64, 32)
        (8, 1, 8, 32)
    """
    count = keep if isinstance(keep, int) else int(keep * rows + 0.5)
    return min(max(count, 1), rows)


def check_keep(keep: float | int | Anneal) -> None:
    """Is this a share or a number of rows?

    Raises:
        ArgumentError: It is neither.
    """
    for value in (keep.begin, keep.end) if isinstance(keep, Anneal) else (keep,):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = isinstance(value, int) and not isinstance(keep, Anneal)
        if not number or (whole and value < 1) or (not whole and not 0 < value <= 1):
            raise ArgumentError(
                f"BatchSelection.keep must be a share in (0, 1] or a number of rows (an int from 1), got {value!r}."
            )
