"""What a run knows of each row of its dataset, on the host, when training is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_select.errors import ArgumentError

__all__ = ["RowTable"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RowTable:
    """One value per row of the dataset in every column; row ``i`` of the table is row ``i`` of the dataset.

    Attributes:
        offered: Times that the row was in a batch, before any selection.
        chosen: Times that it was trained on.
        weight: Mean weight while it was trained on; NaN where it never was.
        loss: Mean of its finite losses, while it was trained on or scored; NaN where there is none.
        last_loss: The latest of them.
        score: Mean of its finite scores; NaN where nobody scored it.
        margin: Area under the margin: mean of (logit of the label less the largest other logit); NaN if unknown.
        confidence: Mean probability of the label; NaN if unknown.
        agreement: Share of the visits at which the model's class was the label; NaN if unknown.
        visits: Visits at which the model's class was known.
        forgettings: Times that the row was right at one visit and wrong at the next.
        learnt_at: Period since which the row has always been right; -1 where its last visit was wrong or unknown.
        label: Class of the row; -1 where it has none or is unknown.
        suggestion: The class that the model preferred among the others at the last visit; -1 if unknown.
        group: Group of the row; -1 where it has none.
        chosen_in: Times that the row was trained on in each period, stopping at 255, shape (rows, periods).
        periods: What the periods are called, as in ``epoch 1`` or ``epochs 3-4``.
        class_names: Names of the classes, by number; empty where they have none.
        group_names: Names of the groups, by number.
    """

    offered: Ints
    chosen: Ints
    weight: Floats
    loss: Floats
    last_loss: Floats
    score: Floats
    margin: Floats
    confidence: Floats
    agreement: Floats
    visits: Ints
    forgettings: Ints
    learnt_at: Ints
    label: Ints
    suggestion: Ints
    group: Ints
    chosen_in: NDArray[np.uint8] = field(repr=False)
    periods: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows, periods = len(self.offered), len(self.periods)
        for name, column in self.columns().items():
            if column.shape != (rows,):
                raise ArgumentError(f"RowTable.{name} must have one value per row ({rows}), got {column.shape}.")
        if self.chosen_in.shape != (rows, periods):
            raise ArgumentError(
                f"RowTable.chosen_in must have the shape (rows, periods) = ({rows}, {periods}), got "
                f"{self.chosen_in.shape}."
            )

    @property
    def rows(self) -> int:
        """Length of the dataset."""
        return len(self.offered)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """The columns that hold one value per row, by name, in order."""
        named = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, np.ndarray) and name != "chosen_in"}

    def class_name(self, number: int) -> str:
        """What a class is called."""
        return _name(self.class_names, number)

    def group_name(self, number: int) -> str:
        """What a group is called."""
        return _name(self.group_names, number)


def _name(names: Sequence[str], number: int) -> str:
    if number < 0:
        return "unknown"
    return names[number] if number < len(names) else str(number)
