"""Weights of rows that a user reads and sets: by a number, numbers, a slice or a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import torch
from numpy import ndarray as Array
from torch import Tensor

from lightning_select.errors import ArgumentError, RowIdError
from lightning_select.samplers.draw import WeightedDraw
from lightning_select.types import Float, Int

__all__ = ["Ids", "RowWeights", "Values", "checked_weights"]

Ids = int | slice | Sequence[int] | Array | Tensor
Values = int | float | Sequence[int | float] | Array | Tensor


class RowWeights:
    """Weights of the rows of a `Weighted` sampler, read and set by a number, numbers, a slice or a mask.

    Values that are on a device already are not looked at: there a weight that is negative or not finite counts as zero
    and an id outside the dataset is passed over.
    """

    def __init__(self, owner: str, draw: WeightedDraw, put: Callable[[Tensor, Tensor], None]) -> None:
        self._owner, self._draw, self._put = owner, draw, put

    def __len__(self) -> int:
        return self._draw.rows

    def __iter__(self) -> Iterator[float]:
        return iter(self.tensor().tolist())

    def __getitem__(self, ids: Ids) -> Float[Tensor, "*k"]:
        found = self._draw.weights.index_select(0, self._places(ids))
        return found.squeeze(0) if isinstance(ids, int) else found

    def __setitem__(self, ids: Ids, weights: Values) -> None:
        places, values = self._places(ids), checked_weights(self._owner, weights)
        if values.ndim and values.shape != places.shape:
            raise ArgumentError(
                f"{self._owner}.weights must be set to one weight, or one for each of {len(places)} ids, "
                f"got {len(values)}."
            )
        self._put(places, values.to(places.device, non_blocking=True).expand(places.shape))

    def _refuse(self, other: object) -> NoReturn:
        raise ArgumentError(
            f"{self._owner}.weights must be calculated with as a tensor, got a sum, product or power of themselves. "
            "Write sampler.weights = 2 * sampler.weights.tensor()."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = _refuse

    def tensor(self) -> Float[Tensor, "rows"]:
        """A copy of all weights."""
        return self._draw.weights.clone()

    def _places(self, ids: Ids) -> Int[Tensor, "k"]:
        owner, rows = self._owner, len(self)
        if isinstance(ids, slice):
            ids = list(range(rows)[ids])
        try:
            places = torch.as_tensor(ids)
        except (TypeError, ValueError, RuntimeError) as error:
            raise RowIdError(f"{owner}.weights must be read and set by ids of rows or a mask, got {ids!r}.") from error
        if places.dtype == torch.bool and places.shape == (rows,):
            places = places.nonzero().squeeze(1)
        if places.numel() and (places.is_floating_point() or places.dtype == torch.bool or places.ndim > 1):
            raise RowIdError(
                f"{owner}.weights must be read and set by ids of rows, or by a mask of all {rows}, got {places.dtype} "
                f"of shape {tuple(places.shape)}."
            )
        places = places.long().reshape(-1)
        if places.device.type == "cpu" and len(places):
            low, high = int(places.min()), int(places.max())
            if low < 0 or high >= rows:
                raise RowIdError(f"{owner}.weights must have ids in [0, {rows}), got {low if low < 0 else high}.")
        return places.to(self._draw.device, non_blocking=True)


def checked_weights(owner: str, weights: Values) -> Float[Tensor, "*k"]:
    """Weights as float32; on the CPU they must be finite and not negative.

    Raises:
        ArgumentError: They are not.
    """
    try:
        values = torch.as_tensor(weights).detach().float()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ArgumentError(f"{owner}.weights must be numbers, got {type(weights).__name__}: {error}.") from error
    if values.device.type == "cpu" and not bool((values.isfinite() & (values >= 0)).all()):
        wrong = values.flatten()[~(values.isfinite() & (values >= 0)).flatten()][0]
        raise ArgumentError(f"{owner}.weights must be finite and not negative, got {float(wrong):g}.")
    return values
