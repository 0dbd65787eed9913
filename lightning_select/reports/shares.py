"""What became of the classes and the groups of a dataset: their shares before and after selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Share", "shares_of"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """A class or a group.

    Attributes:
        name: What it is called.
        rows: Its rows in the dataset.
        of_rows: Its share of the rows that belong to any.
        of_offered: Its share of what batches held before selection.
        of_kept: Its share of what was trained on.
    """

    name: str
    rows: int
    of_rows: float
    of_offered: float
    of_kept: float


def shares_of(belongs: Ints, offered: Ints, chosen: Ints, name: Callable[[int], str]) -> tuple[Share, ...]:
    """The share of each class or group, in the order of their numbers.

    Args:
        belongs: Number of the class or group of each row, shape (rows,); rows with a negative one are left out.
        offered: Times that each row was in a batch.
        chosen: Times that it was trained on.
        name: From a number to its name.
    """
    known = belongs >= 0
    numbers, place = np.unique(belongs[known], return_inverse=True)
    counts = [np.bincount(place, weights=times[known], minlength=len(numbers)) for times in (offered, chosen)]
    rows = np.bincount(place, minlength=len(numbers))
    of_offered, of_kept = (count / max(count.sum(), 1) for count in counts)
    of_rows = rows / max(rows.sum(), 1)
    columns = zip(numbers.tolist(), rows.tolist(), of_rows.tolist(), of_offered.tolist(), of_kept.tolist(), strict=True)
    return tuple(Share(name(number), *values) for number, *values in columns)
