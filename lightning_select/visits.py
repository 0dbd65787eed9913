"""What one step said about the rows of a dataset: checked, on the device of the history, one visit per row.

Rows come more than once in a step where they are drawn with replacement, and ranks of different sizes pad their ids.
Neither is known before the values are looked at, so on a device every step goes through the sort that finds out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from lightning_select.errors import ArgumentError, RowIdError
from lightning_select.types import Int, Shaped, Tensor

__all__ = ["Visits", "check_call", "check_whole", "fitting", "place", "visits"]

_SUMMED = ("successes", "failures")
_AT_MOST = {"successes": float("inf"), "failures": float("inf"), "keep": 1.0}
_IN_PLACE_OF_BAD = {"successes": 0.0, "failures": 0.0, "keep": 1.0}


@dataclass(frozen=True)
class Visits:
    """The rows that one step visited.

    Attributes:
        ids: Positions in the dataset, each at most once; the length of the dataset stands for no row.
        times: How often each of them came.
        signals: What was said about each of them: the sum of its attempts, the mean of anything else.
    """

    ids: Int[Tensor, "k"]
    times: Int[Tensor, "k"]
    signals: Mapping[str, Shaped[Tensor, "k"]]


def visits(
    ids: Int[Tensor, "k"], signals: Mapping[str, Tensor], *, rows: int, device: torch.device, look: bool
) -> Visits:
    """Bring what a step said to one visit per row of a dataset of ``rows`` rows.

    Args:
        ids: Positions in the dataset; -1 is padding.
        signals: What was said about each of them.
        rows: Length of the dataset.
        device: Where the history lives.
        look: May values be looked at? If not, bad ones are replaced: an id that is not in the dataset stands for no
            row, attempts that are negative or not finite are none, a ``keep`` outside [0, 1] is 1.

    Raises:
        ArgumentError: Shapes differ, or a value is out of range.
        RowIdError: Ids are not whole numbers, or outside the dataset.
    """
    ids = place(ids, rows=rows, device=device, look=look)
    signals = {name: _take_in(name, value, ids, rows, look) for name, value in signals.items()}
    if look and _all_differ(ids):
        return Visits(ids, torch.ones_like(ids, dtype=torch.int32), signals)
    ordered, order = ids.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    slot = first.cumsum(0) - 1
    once = torch.full_like(ordered, rows).index_copy_(0, slot, ordered)
    return Visits(once, *_combine(signals, order, slot))


def place(ids: Int[Tensor, "k"], *, rows: int, device: torch.device, look: bool) -> Int[Tensor, "k"]:
    """``ids`` on the device, with ``rows`` in place of those that stand for no row; the arguments are `visits`'s.

    Raises:
        RowIdError: Ids are not whole numbers, or outside the dataset.
    """
    check_whole("SampleHistory.ids", ids)
    ids = ids.to(device, torch.int64, non_blocking=device.type != "cpu")
    if look and ids.shape[0] > 0:
        low, high = (int(end) for end in torch.aminmax(ids))
        if low < -1 or high >= rows:
            raise RowIdError(f"SampleHistory.ids must be in [0, {rows}), got {high if high >= rows else low}.")
        if low >= 0:
            return ids
    return torch.where((ids >= 0) & (ids < rows), ids, rows)


def check_whole(name: str, ids: Tensor) -> None:
    """Ids, or keys, are a list of whole numbers.

    Raises:
        RowIdError: They are not.
    """
    if not isinstance(ids, Tensor):
        raise RowIdError(f"{name} must be a tensor, got {type(ids).__name__}. Write torch.tensor(...).")
    if ids.dim() != 1 or ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise RowIdError(f"{name} must be a list of whole numbers, got {ids.dtype} of shape {tuple(ids.shape)}.")


def check_call(step: int, signals: Mapping[str, Tensor], keep: Tensor | float, columns: Collection[str]) -> None:
    """What can be said about a call of `SampleHistory.update` without looking at the values of a tensor.

    Raises:
        ArgumentError: The step or ``keep`` is out of range, or a signal is no tensor or has no column.
    """
    for name, value in signals.items():
        if not isinstance(value, Tensor):
            raise ArgumentError(
                f"SampleHistory.update must be given {name} as a tensor, got {type(value).__name__}. Write "
                "torch.tensor(...)."
            )
    if not _within(step, 0, 2**31 - 2):
        raise ArgumentError(f"SampleHistory.step must be in [0, 2**31 - 1), got {step!r}.")
    if not isinstance(keep, Tensor) and not _within(keep, 0, 1):
        raise ArgumentError(f"SampleHistory.keep must be in [0, 1], got {keep!r}.")
    if ("successes" in signals) != ("failures" in signals):
        alone = "successes" if "successes" in signals else "failures"
        raise ArgumentError(f"SampleHistory.update must be given successes and failures together, got {alone} alone.")
    for group, name in (("loss", "loss"), ("success", "successes"), ("forgetting", "correct")):
        if name in signals and group not in columns:
            raise ArgumentError(f"SampleHistory.columns must hold '{group}' to take {name}, got {list(columns)}.")


def _within(value: float, low: int, high: int) -> bool:
    try:
        return bool(low <= value <= high)
    except (TypeError, ValueError, RuntimeError):  # no number
        return False


def fitting(dtype: torch.dtype, device: torch.device | str | None) -> torch.dtype:
    """``dtype``, or float32 for float64 on mps, which has none."""
    short = dtype == torch.float64 and device is not None and torch.device(device).type == "mps"
    return torch.float32 if short else dtype


def _all_differ(ids: Tensor) -> bool:
    ordered = np.sort(ids.numpy())  # at the size of a batch several times as fast as torch
    return bool((ordered[1:] != ordered[:-1]).all())


def _take_in(name: str, value: Tensor, ids: Tensor, rows: int, look: bool) -> Tensor:
    if value.shape != ids.shape:
        raise ArgumentError(
            f"SampleHistory.update must be given {name} of shape {tuple(ids.shape)}, one per id, "
            f"got {tuple(value.shape)}."
        )
    value = value.detach().to(ids.device, non_blocking=ids.device.type != "cpu")
    if name == "loss":
        return value.to(torch.float32)
    value = value.to(fitting(torch.float64, ids.device))
    if name == "correct":
        return value
    good = value.isfinite() & (value >= 0) & (value <= _AT_MOST[name])
    if look and not bool((good | (ids == rows)).all()):
        bad = float(value[~good & (ids < rows)][0])
        rule = "in [0, 1]" if name == "keep" else "finite and not negative"
        raise ArgumentError(f"SampleHistory.{name} must be {rule}, got {bad}.")
    return torch.where(good, value, _IN_PLACE_OF_BAD[name])


def _combine(signals: Mapping[str, Tensor], order: Tensor, slot: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """How many rows come in each slot, and the sums and means of their finite values.

    Sums are taken in float64 and by a sorted accumulation, which adds up in one order on every device; float32 values
    that are not some 1e8 times as large as each other add up without rounding, so in any order.
    """
    parts = [torch.ones_like(slot)]
    for value in signals.values():
        finite = value.isfinite()
        parts += [torch.where(finite, value, 0), finite]
    table = torch.stack([part.to(fitting(torch.float64, slot.device)) for part in parts], dim=1).index_select(0, order)
    times, *rest = torch.zeros_like(table).index_put_((slot,), table, accumulate=True).unbind(1)
    combined = {
        name: total if name in _SUMMED else total / finite
        for name, total, finite in zip(signals, rest[::2], rest[1::2], strict=True)
    }
    return times.to(torch.int32), combined
