"""Rules that the arguments of several samplers keep."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.schedule import Anneal
from lightning_select.types import Int

__all__ = ["between", "check_identity", "labels_of", "length_of", "warn_unfed", "whole"]

_SAME = {
    "sampler": "the sampler must be of the kind",
    "rows": "the dataset must have the length",
    "dataset": "the dataset must be of the class",
}


def whole(owner: str, name: str, value: Any, least: int | None = None) -> int:
    """A whole number, not below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        rule = "a whole number" if least is None else f"a whole number, at least {least}"
        raise ArgumentError(f"{owner}.{name} must be {rule}, got {value!r}.")
    return value


def between(owner: str, name: str, value: Any, low: int | float, high: int | float, *, anneal: bool = False) -> Any:
    """A finite number in [low, high]; where ``anneal`` allows it, an `Anneal` between two such numbers."""
    moving = anneal and isinstance(value, Anneal)
    for one in (value.begin, value.end) if moving else (value,):
        number = isinstance(one, (int, float)) and not isinstance(one, bool)
        if not number or not math.isfinite(one) or not low <= one <= high:
            rule = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
            raise ArgumentError(f"{owner}.{name} must be a finite number {rule}, got {value!r}.")
    return value


def length_of(owner: str, dataset: Any) -> int:
    """Rows of a dataset, or the number itself."""
    if isinstance(dataset, bool) or not isinstance(dataset, (int, Sized)) or isinstance(dataset, IterableDataset):
        raise ArgumentError(
            f"{owner}.dataset must have a length and be read by position, got {type(dataset).__name__}. "
            "For a stream, select within the batch: BatchSelection or LossReweighting."
        )
    rows = dataset if isinstance(dataset, int) else len(dataset)
    if rows < 1:
        raise ArgumentError(f"{owner}.dataset must have at least one row, got {rows}.")
    return rows


def labels_of(
    owner: str, name: str, labels: Sequence[Any] | Tensor, rows: int
) -> tuple[list[Any], Int[Tensor, "rows"]]:
    """The distinct labels in sorted order, and for each row the position of its label among them."""
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if len(values) != rows:
        raise ArgumentError(f"{owner}.{name} must hold one label for each of {rows} rows, got {len(values)}.")
    names = sorted(set(values), key=lambda one: (str(type(one)), one))
    place = {one: number for number, one in enumerate(names)}
    return names, torch.tensor([place[one] for one in values], dtype=torch.int64)


def check_identity(owner: str, state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """A state belongs to one kind of sampler and one dataset.

    Raises:
        ConfigurationError: It belongs to others.
    """
    for name, rule in _SAME.items():
        if state[name] != mine[name]:
            raise ConfigurationError(
                f"{owner}: {rule} that the checkpoint holds ({state[name]}), got {mine[name]}. What was learnt about "
                "rows is of no use for others: load the weights alone, and start the sampler afresh."
            )


def warn_unfed(owner: str, drawn: int) -> None:
    """Nobody tells the sampler what the model says."""
    warnings.warn(
        f"{owner} has learnt nothing from {drawn} rows drawn, so it draws as at the start. With a Trainer, add "
        "callbacks=[SamplerFeedback()]; in a loop of your own call sampler.observe(ids, {...}) after each step.",
        stacklevel=4,
    )
