"""What a report must be given, and what it can be told of the run before it starts."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_select.compat import sized_len
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.signals.base import Signals
from lightning_select.types import Batch, Int

__all__ = [
    "check_arguments",
    "dataset_length",
    "entry_of",
    "numbered",
    "period_unit",
    "reserve",
    "told",
    "without_margins",
]

_OWNER = "SelectionReport"


def check_arguments(title: Any, class_names: Any, groups: Any, show: Any, margins: Any, rows: Any) -> None:
    """Arguments that show their faults before training.

    Raises:
        ArgumentError: One of them is not as said.
    """
    if not isinstance(title, str) or not title.strip():
        raise ArgumentError(f"{_OWNER}.title must be a text, got {title!r}.")
    if isinstance(class_names, (str, Mapping)) or not hasattr(class_names, "__iter__"):
        raise ArgumentError(f"{_OWNER}.class_names must be a list of names, got {class_names!r}.")
    listed = hasattr(groups, "__len__") and hasattr(groups, "__getitem__") and not isinstance(groups, Mapping)
    if groups is not None and not listed:
        raise ArgumentError(f"{_OWNER}.groups must hold one group per row, or name an entry, got {groups!r}.")
    if show is not None and not callable(show):
        raise ArgumentError(f"{_OWNER}.show must be a function of a row number, got {show!r}.")
    if not isinstance(margins, bool):
        raise ArgumentError(f"{_OWNER}.margins must be True or False, got {margins!r}.")
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise ArgumentError(f"{_OWNER}.rows must be a whole number, at least 1, got {rows!r}.")


def reserve(report: Any, trainer: Any) -> Path:
    """The folder of a report: that of the user, or a new one beside the logs.

    Raises:
        ConfigurationError: Another report of the Trainer goes there, or nothing can be written there.
    """
    logs = trainer.log_dir  # asks the other ranks, so all of them have to ask
    if report.folder is not None:
        place = Path(report.folder).expanduser()
    else:
        place = _new(Path(logs or trainer.default_root_dir) / "selection_report", trainer)
    place = place.resolve()
    if place in [one.place for one in trainer.callbacks if type(one) is type(report) and one is not report]:
        raise ConfigurationError(
            f"{_OWNER}.folder must be another one for each report of a Trainer, got {place} twice. Pass folder=..."
        )
    if trainer.is_global_zero:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"{_OWNER}.folder must be a folder that can be written to, got {place} ({error.strerror}). "
                "Pass folder=..."
            ) from error
    return place


def dataset_length(report: Any, interception: Any) -> int:
    """Rows of the dataset, as the user or the dataset says.

    Raises:
        ConfigurationError: Neither does, or groups are not one per row.
    """
    rows = report.rows or interception.dataset_rows or sized_len(interception.dataset)
    if rows is None:
        raise ConfigurationError(
            f"{_OWNER} must know the length of the dataset, got one that does not tell. Pass rows=... and, where the "
            "loader draws no row numbers, id_key=..."
        )
    groups = report.groups
    if groups is not None and not isinstance(groups, str) and len(groups) != rows:
        raise ConfigurationError(f"{_OWNER}.groups must be one per row of the dataset ({rows}), got {len(groups)}.")
    if groups is not None and not isinstance(groups, str):
        numbered(groups)
    return int(rows)


def numbered(groups: Sequence[Any]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], tuple[str, ...]]:
    """Groups as numbers, and their names where they are none.

    Raises:
        ConfigurationError: They are not one number or name per row.
    """
    try:
        values = np.asarray(groups)
    except ValueError:  # lists of different lengths
        values = np.zeros((0, 0))
    if values.ndim != 1 or values.dtype.kind not in "iuUS":
        raise ConfigurationError(
            f"{_OWNER}.groups must be a whole number or a name per row, got {values.dtype} of shape {values.shape}."
        )
    if values.dtype.kind in "iu":
        return values.astype(np.int64), ()
    names, numbers = np.unique(values.astype(str), return_inverse=True)
    return numbers.astype(np.int64).reshape(-1), tuple(map(str, names))


def told(exception: BaseException) -> str:
    """An exception in words, its name alone where it cannot be told."""
    try:
        words = str(exception)[:200]
    except Exception:  # of the user's own
        words = ""
    return f"{type(exception).__name__}: {words}".rstrip(": ")


def without_margins(signals: Signals) -> str:
    """Why rows with such logits have no margins; nothing where they have. Looks at targets that may be places."""
    logits, targets = signals.logits, signals.targets
    if logits is None or targets is None:
        return ""
    if logits.dim() > 2 or (signals.link == "sigmoid" and logits.numel() > logits.shape[0]):
        return "Rows are many predictions each, so they have no margins; losses tell them apart."
    if len(targets) < 2 or targets.dim() != 1 or logits.shape != (len(targets), len(targets)):
        return ""
    matched = bool((targets == torch.arange(len(targets), device=targets.device)).all())
    return "Rows are matched with each other, so they have no classes; losses tell them apart." if matched else ""


def period_unit(trainer: Any) -> str:
    """Do periods count epochs, or steps because there is one epoch only?"""
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0:
        steps, batches = trainer.max_steps, trainer.num_training_batches
        known = steps > 0 and math.isfinite(batches) and batches > 0
        epochs = math.ceil(steps * trainer.accumulate_grad_batches / batches) if known else 2
    return "step" if epochs == 1 else "epoch"


def entry_of(batch: Batch, name: str) -> Int[Tensor, "rows"]:
    """The entry of a batch that holds the group of each row.

    Raises:
        ConfigurationError: There is none of that name with a number per row.
    """
    entry = batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)
    if not isinstance(entry, Tensor) or entry.dim() != 1 or entry.is_floating_point():
        raise ConfigurationError(
            f"{_OWNER}.groups must name an entry of the batch that holds a whole number per row, got {name!r}. "
            "Groups that the batches do not hold are given as a list, one per row of the dataset."
        )
    return entry


def _new(place: Path, trainer: Any) -> Path:
    """``place``, or the first free one of its kind; the first rank decides, before anyone makes it."""
    number, free = 0, place
    while free.exists():
        number += 1
        free = place.with_name(f"{place.name}_{number}")
    return Path(trainer.strategy.broadcast(str(free)))
