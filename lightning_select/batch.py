"""Count and take the rows of a batch of any form, on the device, without touching the original.

Understood without help: tensors, NumPy arrays, lists of strings or numbers, dicts and other mutable mappings, lists,
tuples, named tuples and dataclasses of those, nested at will, packed sequences, ``torch_geometric`` batches, and lists
of samples (but ``[(a, b), (c, d)]`` of tensors that share one first axis are columns). Tensors of a class of their own
keep it. Anything else is one line,
``take_rows.register(MyBatch, lambda batch, index: ...)``; its rows are counted by what ``count_rows.register`` says, or
else by ``len(batch)``, which is taken for something else where the tensors beside it have another length.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sized
from functools import cache, singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lightning_select.containers import (
    DESCRIPTIONS,
    are_samples,
    axis_of_columns,
    children_of,
    describe,
    is_plain,
    is_sequence,
    may_be_columns,
    name_of,
    rebuild,
    shape_of,
)
from lightning_select.errors import BatchFormatError
from lightning_select.graphs import is_graph, teach_graphs
from lightning_select.tensor_rows import TEACH, rows_of_tensor
from lightning_select.types import Batch, Int

__all__ = ["count_rows", "shallow_copy", "take_rows"]

_COUNT = "count_rows.register({}, lambda batch: ...)"


@singledispatch
def count_rows(batch: Batch) -> int:
    """Number of rows of ``batch``: the first-axis size that its parts agree on, or the length of a list of samples.

    Raises:
        BatchFormatError: No part has rows, or the parts do not agree.
    """
    rows = _rows_of_plain(batch)
    if rows is None:
        rows = _elect(batch) if _taker(batch) is None else _own_rows(batch)[0]
    if rows is not None:
        return rows
    raise BatchFormatError(
        f"A batch must hold at least one tensor with a first axis, got {describe(batch)}. Teach its type: "
        f"{TEACH.format(name_of(batch))} and {_COUNT.format(name_of(batch))}."
    )


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
    if type(batch) is not Tensor and _rows_of_plain(batch) is not None:
        if type(batch) is dict:
            return {key: part.index_select(0, index.to(part.device)) for key, part in batch.items()}
        return type(batch)([part.index_select(0, index.to(part.device)) for part in batch])
    return _take(batch, index, count_rows(batch), "batch", top=True)


def shallow_copy(batch: Batch) -> Batch:
    """Rebuild every container of ``batch`` around the same tensors, so that ``batch.pop("labels")`` stays harmless."""
    if (type(batch) is not Tensor and _rows_of_plain(batch) is not None) or _taker(batch) is not None:
        return copy.copy(batch)
    children = children_of(batch)
    return batch if children is None else rebuild(batch, [shallow_copy(child) for _, child in children])


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """Every tensor in the containers we understand; types that were registered keep theirs to themselves."""
    if isinstance(batch, Tensor):
        yield batch
    elif _rows_of_plain(batch) is not None:
        yield from batch.values() if type(batch) is dict else batch
    elif _taker(batch) is None:
        for _, child in children_of(batch) or ():
            if type(child) is not str:
                yield from tensors_of(child)


def _take(part: Any, index: Tensor, rows: int, path: str, *, top: bool = False) -> Any:
    taker = _taker(part)
    if taker is not None:
        return taker(part, index)
    if isinstance(part, Tensor):
        return rows_of_tensor(part, index, path) if part.dim() and part.size(0) == rows else part
    if isinstance(part, np.ndarray):
        return part[index.cpu().numpy()] if part.ndim and part.shape[0] == rows else part
    if _is_column(part, rows, top=top):
        return rebuild(part, [part[position] for position in index.tolist()])
    children = children_of(part)
    if children is not None:
        return rebuild(part, [_take(child, index, rows, f"{path}{key}") for key, child in children])
    if isinstance(part, DESCRIPTIONS):
        return part
    raise BatchFormatError(
        f"{path} must be of a type whose rows can be taken, got {type(part).__module__}.{type(part).__qualname__}. "
        f"Teach it in one line: {TEACH.format(type(part).__name__)}."
    )


def _rows_of_plain(batch: Batch) -> int | None:
    """Rows of a list, tuple or dict of tensors of one length, quickly, unless somebody taught one of these types."""
    kind: Any = type(batch)
    if kind not in (tuple, list, dict, Tensor):
        return None
    rows = None
    for part in (batch,) if kind is Tensor else batch.values() if kind is dict else batch:
        if type(part) is not Tensor or part.layout is not torch.strided or part.is_nested or not part.dim():
            return None
        if rows not in (None, part.shape[0]):
            return None
        rows = part.shape[0]
    return rows if _untaught(kind, len(take_rows.registry)) else None


@cache
def _untaught(kind: Any, known: int) -> bool:
    """Did nobody teach how to take rows of this type or of a tensor? Asked again when one more type is ``known``."""
    return take_rows.dispatch(kind) is take_rows.dispatch(Tensor) is take_rows.dispatch(object)


def _elect(batch: Batch) -> int | None:
    """The number of rows that fewest parts object to, ``None`` where no part has rows at all."""
    rows = len(batch) if are_samples(batch, _own_rows) else axis_of_columns(batch, _own_rows)
    if rows is not None:
        return rows
    cast = ((size, list(_votes(batch, size, "batch", top=True))) for size in _sizes(batch))
    votes = {size: every for size, every in cast if any(agrees for *_, agrees in every)}
    if not votes:
        return None
    against = {size: [(path, part) for path, part, agrees in every if not agrees] for size, every in votes.items()}
    best = min(votes, key=lambda size: (len(against[size]), len(against[size]) - len(votes[size])))
    if 2 * len(against[best]) < len(votes[best]):
        return best
    paths, odd = zip(*against[best], strict=True)
    raise BatchFormatError(
        f"The parts of a batch must agree on the number of rows, got {describe(batch)}, where {', '.join(paths[:3])} "
        f"cannot have the {best} rows of other parts. Give what is odd (or the batch) a type of its own and teach it: "
        f"{_COUNT.format(name_of(*odd, batch))}."
    )


def _sizes(part: Any) -> dict[int, None]:
    """Every number of rows that some part of the batch suggests, in order of appearance."""
    own = (len(part),) if is_plain(part) else _own_rows(part)
    if own:
        return {axis: None for axis in own if axis is not None}
    sizes = {size: None for _, child in children_of(part) or () for size in _sizes(child)}
    return {**sizes, len(part): None} if is_sequence(part) else sizes


def _votes(part: Any, rows: int, path: str, *, top: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """For every part that can have rows: its path, itself, and whether it has that many.

    The length of a taught type without a counter may mean something else: it can support a number but not object.
    """
    own = _own_rows(part)
    if own:
        if own[0] == rows or (own[0] is not None and (_taker(part) is None or _has_counter(part))):
            yield path, part, own[0] == rows
    elif _is_column(part, rows, top=top):
        yield from [(path, part, True)] * (1 if may_be_columns(part, _own_rows) else len(part) + 1)
    else:
        for key, child in children_of(part) or ():
            yield from _votes(child, rows, f"{path}{key}")


def _is_column(part: Any, rows: int, *, top: bool) -> bool:
    """Is this list one value per row (file names, images of several sizes)? The batch itself rather lists columns."""
    if not is_sequence(part) or len(part) != rows or not part:
        return False
    if is_plain(part) or (top and are_samples(part, _own_rows)):
        return True
    axes = [axis for value in part for axis in _own_rows(value)]
    if len(axes) == len(part):
        taught = all(_taker(value) is not None for value in part)  # several batches, or one list of single graphs
        return taught and (len(set(axes)) > 1 or axes[0] in (None, 1)) if top else any(axis != rows for axis in axes)
    if axes or (top and (len({type(value) for value in part}) > 1 or isinstance(part[0], (list, tuple)))):
        return False
    inner = [size for value in part for size in _sizes(value)]
    return len(set(inner)) != 1 or len(inner) < 2 * len(part)


def _own_rows(part: Any) -> tuple[int | None, ...]:
    """The first axis of a tensor, an array or a taught type (``None`` where it has none); nothing for other parts."""
    if _taker(part) is not None:
        return (count_rows(part) if _has_counter(part) else len(part) if isinstance(part, Sized) else None,)
    if isinstance(part, (Tensor, np.ndarray)):
        return (int(shape_of(part)[0]) if part.ndim else None,)
    return ()


def _has_counter(part: Any) -> bool:
    return count_rows.dispatch(type(part)) is not count_rows.dispatch(object)


def _taker(part: Any) -> Callable[[Any, Tensor], Any] | None:
    """The function registered for this type, or ``None`` for what is understood without help."""
    kind: Any = type(part)
    if is_graph(kind):
        teach_graphs(take_rows, count_rows)
    taker = take_rows.dispatch(kind)
    return None if taker is take_rows.dispatch(object) else taker


@take_rows.register
def _take_packed(batch: PackedSequence, index: Tensor) -> PackedSequence:
    padded, lengths = pad_packed_sequence(batch, batch_first=True)
    return pack_padded_sequence(padded[index], lengths[index.cpu()], batch_first=True, enforce_sorted=False)


@count_rows.register
def _count_packed(batch: PackedSequence) -> int:
    return int(batch.batch_sizes[0])
