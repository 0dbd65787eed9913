"""Take rows of one tensor; a tensor of a class of its own stays of that class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_select.errors import BatchFormatError
from lightning_select.types import Int, Shaped

__all__ = ["TEACH", "rows_of_tensor"]

TEACH = "take_rows.register({}, lambda batch, index: ...)"
"""The line that teaches a type, to be filled in with its name."""


def rows_of_tensor(part: Shaped[Tensor, "rows *rest"], index: Int[Tensor, "kept"], path: str) -> Tensor:
    """The rows ``index`` of ``part``, on its device.

    Args:
        part: The tensor.
        index: Positions to take.
        path: What messages call it.

    Raises:
        BatchFormatError: It is of a layout or a class whose rows cannot be taken.
    """
    if part.is_nested or part.layout not in (torch.strided, torch.sparse_coo):
        kind = "nested" if part.is_nested else str(part.layout).removeprefix("torch.")
        raise BatchFormatError(
            f"{path} must be a dense tensor, or one in coordinates, to take rows of it, got a {kind} one. Have the "
            "collate function make another, or put it into a type of your own and teach that: "
            f"{TEACH.format('MyBatch')}."
        )
    index = index.to(part.device)
    if type(part) is Tensor or isinstance(part, nn.Parameter) or _dispatches(type(part)):
        return part.index_select(0, index)
    try:
        return _of_class(part, index)
    except (TypeError, NotImplementedError) as error:
        raise BatchFormatError(
            f"{path} must be a tensor whose rows can be taken, got {type(part).__name__}, which says: {error}. Teach "
            f"it in one line: {TEACH.format(type(part).__name__)}."
        ) from error


def _of_class(part: Tensor, index: Tensor) -> Tensor:
    """The rows with the class and the attributes of ``part``, as far as its class has not seen to them itself.

    An attribute that is a tensor as long as the rows is taken to be theirs, as everywhere in a batch.
    """
    taken: Tensor = part.index_select(0, index)
    if type(taken) is Tensor:
        taken = taken.as_subclass(type(part))
    rows = part.size(0)
    for name, value in vars(part).items():
        if name not in vars(taken):
            vars(taken)[name] = _of_rows(value, index, rows)
    return taken


def _of_rows(value: Any, index: Tensor, rows: int) -> Any:
    if not isinstance(value, (Tensor, np.ndarray)) or not value.ndim or value.shape[0] != rows:
        return value
    if isinstance(value, np.ndarray):
        return value[index.cpu().numpy()]
    return value.index_select(0, index.to(value.device))


def _dispatches(kind: type[Tensor]) -> bool:
    """Is this a wrapper around other tensors? It knows best what its rows are, and has no memory to be cast."""
    return kind.__torch_dispatch__ is not Tensor.__torch_dispatch__
