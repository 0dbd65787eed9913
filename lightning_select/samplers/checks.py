"""Rules that the arguments of several samplers keep."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set, Sized
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lightning_select.errors import ArgumentError, RowIdError
from lightning_select.looking import may_look
from lightning_select.samplers.success import with_success
from lightning_select.schedule import Anneal
from lightning_select.types import Int
from lightning_select.visits import check_whole

__all__ = [
    "between",
    "check_ids",
    "checked_signals",
    "labels_of",
    "length_of",
    "several",
    "switch",
    "warn_left",
    "warn_unfed",
    "whole",
]

_SILENCE = (2048, 256)
"""Rows drawn, in all epochs, without having learnt anything, after which a sampler that needs to says so: amid an epoch
and at its end."""


def whole(owner: str, name: str, value: Any, least: int | None = None) -> int:
    """A whole number, not below ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or (least is not None and value < least):
        rule = "a whole number" if least is None else f"a whole number, at least {least}"
        raise ArgumentError(f"{owner}.{name} must be {rule}, got {value!r}.")
    return int(value)


def switch(owner: str, name: str, value: Any) -> bool:
    """True or False, and nothing that only stands for them."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{owner}.{name} must be True or False, got {value!r}.")
    return value


def several(owner: str, name: str, values: Any, length: int) -> list[Any]:
    """So many numbers, in a list of their own."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != length:
        raise ArgumentError(f"{owner}.{name} must be {length} numbers, got {values!r}.")
    return list(values)


def between(owner: str, name: str, value: Any, low: int | float, high: int | float, *, anneal: bool = False) -> Any:
    """A finite number in [low, high]; where ``anneal`` allows it, an `Anneal` between two such numbers."""
    moving = anneal and isinstance(value, Anneal)
    for one in (value.begin, value.end) if moving else (value,):
        number = isinstance(one, Real) and not isinstance(one, bool)
        if not number or not math.isfinite(one) or not low <= one <= high:
            rule = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
            raise ArgumentError(f"{owner}.{name} must be a finite number {rule}, got {value!r}.")
    return value if moving or isinstance(value, (int, float)) else float(value)


def length_of(owner: str, dataset: Any) -> int:
    """Rows of a dataset, or the number itself."""
    if isinstance(dataset, bool) or not isinstance(dataset, (Integral, Sized)) or isinstance(dataset, IterableDataset):
        raise ArgumentError(
            f"{owner}.dataset must have a length and be read by position, got {type(dataset).__name__}. "
            "For a stream, select within the batch: BatchSelection or LossReweighting."
        )
    if isinstance(dataset, Tensor) and dataset.dim() == 0:
        raise ArgumentError(f"{owner}.dataset must have rows, got a tensor without any dimension.")
    rows = int(dataset) if isinstance(dataset, Integral) else len(dataset)
    if rows < 1:
        raise ArgumentError(f"{owner}.dataset must have at least one row, got {rows}.")
    return rows


def labels_of(
    owner: str, name: str, labels: Sequence[Any] | Tensor, rows: int
) -> tuple[list[Any], Int[Tensor, "rows"]]:
    """The distinct labels in sorted order, and for each row the position of its label among them.

    Raises:
        ArgumentError: There is not one label for each row, a row has none (``None``, NaN, an empty string), or labels
            have no order.
    """
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(values, (Mapping, Set)):
        kind = type(values).__name__
        raise ArgumentError(
            f"{owner}.{name} must hold one label for each of {rows} rows, in their order, got a {kind}."
        )
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ArgumentError(f"{owner}.{name} must hold one label for each of {rows} rows, got {values!r}.")
    # A list of tensors of one number is what a loop over a dataset gives.
    values = [one.item() if hasattr(one, "item") and math.prod(one.shape) == 1 else one for one in values]
    if len(values) != rows:
        raise ArgumentError(f"{owner}.{name} must hold one label for each of {rows} rows, got {len(values)}.")
    for row, one in enumerate(values):
        if one is None or one == "" or one != one or not isinstance(one, Hashable):
            raise ArgumentError(f"{owner}.{name} must hold a label for every row, got {one!r} for row {row}.")
    try:
        names = sorted(dict.fromkeys(values), key=lambda one: (str(type(one)), one))
    except TypeError as error:
        raise ArgumentError(f"{owner}.{name} must hold labels that can be sorted, got {error}. Use names.") from error
    place = {one: number for number, one in enumerate(names)}
    return names, torch.tensor([place[one] for one in values], dtype=torch.int64, device="cpu")


def check_ids(owner: str, ids: Any, rows: int | None) -> Int[Tensor, "rows"]:
    """Row ids as a tensor. Where looking costs nothing, each must be in the dataset, or -1, which is padding.

    With ``rows`` of ``None`` they come from our own draws and need no look.

    Raises:
        RowIdError: They are no whole numbers, or one is outside the dataset.
    """
    ids = _tensor(RowIdError, f"{owner}.ids must be whole numbers", ids)
    check_whole(f"{owner}.ids", ids)
    if rows is not None and may_look(ids.device) and ids.shape[0]:
        listed = ids.tolist()
        low, high = min(listed), max(listed)
        if low < -1 or high >= rows:
            wrong = low if low < -1 else high
            raise RowIdError(f"{owner}.ids must be in [0, {rows}), the rows of the dataset, got {wrong}.")
    return ids


def checked_signals(
    owner: str, needs: frozenset[str], ids: Any, rows: int | None, signals: Mapping[str, Any]
) -> tuple[Int[Tensor, "rows"], Mapping[str, Tensor]]:
    """Ids and signals as tensors, one line per id each, with successes counted where they are needed.

    Raises:
        ArgumentError: A signal is missing, holds no numbers, or has another number of rows.
        RowIdError: An id is outside the dataset.
    """
    ids = check_ids(owner, ids, rows)
    if not isinstance(signals, Mapping):
        got = type(signals).__name__
        raise ArgumentError(f'{owner}.observe must get signals by name, such as {{"loss": losses}}, got {got}.')
    rule = f"{owner}.observe must get numbers as"
    given = {name: _tensor(ArgumentError, f"{rule} {name}", one) for name, one in signals.items()}
    for name, value in given.items():
        if value.shape[:1] != ids.shape:
            got = tuple(value.shape)
            raise ArgumentError(f"{owner}.observe must get one line of {name} per id ({len(ids)}), got shape {got}.")
    found = with_success(owner, given, ids) if "success" in needs else given
    missing = ", ".join(sorted(needs - set(found)))
    if missing:
        here = ", ".join(sorted(given)) or "nothing"
        raise ArgumentError(f"{owner}.observe must get the signals {missing}, got {here}.")
    return ids, found


def warn_unfed(owner: str, drawn: int, *, over: bool) -> bool:
    """Nobody tells the sampler what the model says; warns once enough rows are drawn, and tells whether it did."""
    if drawn <= _SILENCE[over]:
        return False
    warnings.warn(
        f"{owner} has learnt nothing from {drawn} rows drawn, so it draws as at the start. With a Trainer, add "
        "callbacks=[SamplerFeedback()] (and let a batch sampler of your own hold this one as its `sampler`); in "
        "a loop of your own call sampler.observe(ids, {...}) after each step.",
        stacklevel=4,
    )
    return True


def warn_left(owner: str, epoch: int, rows: int) -> None:
    """In a loop of one's own, rows of the epoch that a state was saved amid are not going to be drawn."""
    if rows:
        warnings.warn(
            f"{owner} starts epoch {epoch + 1} and leaves out {rows} rows of epoch {epoch}, amid which the state "
            f"was saved. To go on there, call set_epoch({epoch}) after load_state_dict; set_epoch({epoch + 1}) if it "
            "was over.",
            stacklevel=4,
        )


def _tensor(kind: type[ArgumentError] | type[RowIdError], rule: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise kind(f"{rule}, got {type(values).__name__}: {error}.") from error
