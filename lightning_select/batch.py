"""Count and take the rows of a batch of any form, on the device, without touching the original.

Understood without help: tensors, NumPy arrays, lists and tuples of strings or numbers, dicts and every other mutable
mapping (a transformers ``BatchEncoding`` among them), lists, tuples, named tuples and dataclasses of those, nested at
will, packed sequences, and ``torch_geometric`` batches. Anything else is one line of the user's own::

    take_rows.register(MyBatch, lambda batch, index: MyBatch(batch.x[index], batch.y[index]))

(its rows are counted by ``len(batch)``, or by what ``count_rows.register(MyBatch, ...)`` says).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache, singledispatch
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lightning_select.containers import DESCRIPTIONS, children_of, describe, is_namedtuple, rebuild
from lightning_select.errors import BatchFormatError
from lightning_select.types import Batch, Int

__all__ = ["count_rows", "shallow_copy", "take_rows"]


@singledispatch
def count_rows(batch: Batch) -> int:
    """Number of rows of ``batch``: the first-axis size that its parts agree on.

    Raises:
        BatchFormatError: No part has rows, or the parts do not agree.
    """
    if _taker(batch) is not None:
        counter = count_rows.dispatch(type(batch))
        return len(batch) if counter is count_rows.dispatch(object) else counter(batch)
    tallies = {size: list(_matches(batch, size, top=True)) for size in _sizes(batch)}
    if not tallies:
        raise BatchFormatError(
            f"A batch must hold at least one tensor with a first axis, got {describe(batch)}. "
            f"Teach its type in one line: take_rows.register({type(batch).__name__}, lambda batch, index: ...)."
        )
    best = min(tallies, key=lambda size: (tallies[size].count(False), -tallies[size].count(True)))
    if not tallies[best].count(True) > tallies[best].count(False):
        raise BatchFormatError(
            f"The parts of a batch must agree on the number of rows, got {describe(batch)}. Teach its type: "
            f"count_rows.register({type(batch).__name__}, lambda batch: ...)."
        )
    return best


@singledispatch
def take_rows(batch: Batch, index: Int[Tensor, "kept"]) -> Batch:
    """A new batch that holds the rows ``index`` of ``batch``, in that order; parts without rows go through as they are.

    A part belongs to the rows if its first axis is as long as the batch. A vector of class weights that happens to be
    exactly that long would be cut too; register the type of such a batch.

    Args:
        batch: The batch.
        index: Positions to take, int64. Parts that are not tensors (strings, NumPy arrays) are cut on the host, which
            waits for the device once.

    Raises:
        BatchFormatError: The rows cannot be counted, or a part is of a type nobody taught us to cut.
    """
    return _take(batch, index, count_rows(batch), "batch", top=True)


def shallow_copy(batch: Batch) -> Batch:
    """Rebuild every container of ``batch`` around the same tensors, so that ``batch.pop("labels")`` stays harmless."""
    if _taker(batch) is not None:
        return copy.copy(batch)
    children = children_of(batch)
    return batch if children is None else rebuild(batch, [shallow_copy(child) for _, child in children])


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """Every tensor in the containers we understand; types that were registered keep theirs to themselves."""
    if isinstance(batch, Tensor):
        yield batch
    elif _taker(batch) is None:
        for _, child in children_of(batch) or ():
            yield from tensors_of(child)


def _take(part: Any, index: Tensor, rows: int, path: str, *, top: bool = False) -> Any:
    taker = _taker(part)
    if taker is not None:
        return taker(part, index)
    if isinstance(part, Tensor):
        return part.index_select(0, index.to(part.device)) if part.dim() and part.shape[0] == rows else part
    if isinstance(part, np.ndarray):
        return part[index.cpu().numpy()] if part.ndim and part.shape[0] == rows else part
    if _is_column(part, rows, top=top):
        return type(part)([part[position] for position in index.tolist()])
    children = children_of(part)
    if children is not None:
        return rebuild(part, [_take(child, index, rows, f"{path}{key}") for key, child in children])
    if isinstance(part, DESCRIPTIONS):
        return part
    raise BatchFormatError(
        f"{path} must be of a type whose rows can be taken, got {type(part).__module__}.{type(part).__qualname__}. "
        f"Teach it in one line: take_rows.register({type(part).__name__}, lambda batch, index: ...)."
    )


def _sizes(part: Any) -> dict[int, None]:
    """Every number of rows that some part of the batch suggests, in order of appearance."""
    sizes: dict[int, None] = {}
    if _taker(part) is not None:
        sizes[count_rows(part)] = None
    elif isinstance(part, (Tensor, np.ndarray)):
        sizes.update({int(part.shape[0]): None} if part.ndim else {})
    else:
        for _, child in children_of(part) or ():
            sizes.update(_sizes(child))
        if isinstance(part, (list, tuple)) and not is_namedtuple(part):
            sizes[len(part)] = None
    return sizes


def _matches(part: Any, rows: int, *, top: bool = False) -> Iterator[bool]:
    """For every part that can have rows, whether it has that many."""
    if _taker(part) is not None:
        yield count_rows(part) == rows
    elif isinstance(part, (Tensor, np.ndarray)):
        if part.ndim:
            yield int(part.shape[0]) == rows
    elif _is_column(part, rows, top=top):
        yield from [True] * (len(part) + 1)
    else:
        for _, child in children_of(part) or ():
            yield from _matches(child, rows)


def _is_column(part: Any, rows: int, *, top: bool) -> bool:
    """Is this list one value per row (file names, images of several sizes), rather than a list of columns?

    The batch itself is a list of columns (``[images, labels]``), unless it holds no arrays at all, or samples that
    are containers of their own and do not share one first axis.
    """
    if not isinstance(part, (list, tuple)) or is_namedtuple(part) or len(part) != rows or not part:
        return False
    arrays = [isinstance(value, (Tensor, np.ndarray)) for value in part]
    if all(arrays):
        return not top and not all(value.ndim and value.shape[0] == rows for value in part)
    if any(arrays) or (top and any(isinstance(value, (list, tuple)) for value in part)):
        return False
    inner = [size for value in part for size in _sizes(value)]
    return len(set(inner)) != 1 or len(inner) < 2 * len(part)


def _taker(part: Any) -> Callable[[Any, Tensor], Any] | None:
    """The function registered for this type, or ``None`` for what is understood without help."""
    kind: Any = type(part)
    if _is_geometric(kind):
        _register_torch_geometric()
    taker = take_rows.dispatch(type(part))
    return None if taker is take_rows.dispatch(object) else taker


@take_rows.register
def _take_packed(batch: PackedSequence, index: Tensor) -> PackedSequence:
    padded, lengths = pad_packed_sequence(batch, batch_first=True)
    chosen = lengths[index.cpu()]
    return pack_padded_sequence(padded[index], chosen, batch_first=True, enforce_sorted=False)


@count_rows.register
def _count_packed(batch: PackedSequence) -> int:
    return int(batch.batch_sizes[0])


@cache
def _is_geometric(kind: Any) -> bool:
    return any(base.__module__.startswith("torch_geometric.") for base in kind.__mro__)


@cache
def _register_torch_geometric() -> None:
    """Teach graph batches, the first time one is seen, so that torch_geometric is never imported for anyone else."""
    from torch_geometric.data import Batch as Graphs
    from torch_geometric.data.data import BaseData

    def take(batch: Any, index: Tensor) -> Any:
        return Graphs.from_data_list(batch.index_select(index)) if isinstance(batch, Graphs) else batch

    def count(batch: Any) -> int:
        return batch.num_graphs if isinstance(batch, Graphs) else 1

    take_rows.register(BaseData, take)
    count_rows.register(BaseData, count)
