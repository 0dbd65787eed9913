"""Data on the device: the fast path for a dataset that fits there.

A `DeviceLoader` holds a whole dataset of tensors on the device of the model and takes batches out of it by index. It
has no workers and draws nothing ahead, so each draw knows all that was learnt by then. Row ids never visit the host.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, TensorDataset, default_collate

from lightning_select.batch import take_rows
from lightning_select.containers import children_of, describe, rebuild
from lightning_select.errors import ArgumentError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import length_of, whole
from lightning_select.samplers.drawn import Drawn
from lightning_select.seeding import generator_at
from lightning_select.signals.memory import is_out_of_memory
from lightning_select.types import Batch, Int

__all__ = ["DeviceLoader", "samples_of"]

_SHARE = 0.5
"""Of the memory that is free on a device, how much data may take; the model has yet to train there."""


class DeviceLoader:
    """A loader whose dataset is on the device. To a Trainer it is a loader like any other.

    Args:
        dataset: A tensor, a ``TensorDataset``, or a dict, list, tuple or dataclass of tensors, nested at will, with one
            row per sample each; batches have the same form. The samples of any other map-style dataset are read once
            and put together by torch's ``default_collate``: for that time they are in memory twice, and what the
            dataset draws at random is drawn once and for all.
        batch_size: Rows of a batch.
        sampler: One of ours; ``None``: in order, or shuffled.
        shuffle: Take the rows in an order that depends on the seed and the epoch.
        drop_last: Leave the last batch out where it is smaller.
        device: Where the data is kept. ``None``: where the Trainer trains, and without a Trainer on the CPU.
        seed: Seed of the shuffling.

    Our callbacks tell the loader the Trainer's device. Data larger than half of what is free there stays on the CPU,
    with a warning; then every batch is copied, which waits for the device. Each rank holds the whole dataset and takes
    its share of each draw. One iteration at a time.

    Raises:
        ArgumentError: A value is out of range, or dataset or sampler are not as said.

    Attributes:
        rows: Rows of the dataset.
        nbytes: Size of the dataset.
        device: Where the data is now.

    Example:
        >>> [batch.tolist() for batch in DeviceLoader(torch.arange(5), 2)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        *,
        sampler: Sampler[Any] | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self.batch_size = whole("DeviceLoader", "batch_size", batch_size, 1)
        self.dataset, self.drop_last = dataset, drop_last
        self._source = _columns(dataset)
        leaves = _leaves(self._source)
        self.rows = len(leaves[0])
        self.nbytes = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        self.sampler = _InOrder(self.rows, shuffle, seed) if sampler is None else self._checked(sampler, shuffle)
        self.batch_sampler: Any = _Batches(self.sampler, batch_size, drop_last)
        self._asked = None if device is None else torch.device(device)
        self._data, self.device, self._tried = self._source, leaves[0].device, leaves[0].device
        self.bind(self.device)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.batch_sampler:
            yield take_rows(self._data, index)

    def bind(self, device: torch.device) -> None:
        """Be told by a Trainer where it trains; a device asked for at the start has precedence."""
        device = self._asked or device
        if not self.sampler.fed:
            self.sampler.bind(self.batch_size, 0, device)
            self.sampler.release()
        if device == self._tried:
            return
        self._tried, self._data = device, self._source
        room = _room(device)
        if self.nbytes <= room * _SHARE:
            try:
                self._data = _each(self._source, lambda leaf: leaf.to(device))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
        self.device = _leaves(self._data)[0].device
        if self.device.type != device.type:
            warnings.warn(
                f"DeviceLoader keeps its data on the {self.device.type}: it has {self.nbytes / 1e6:.4g} MB, and of the "
                f"{room / 1e6:.4g} MB that are free on {device} it may take half. Each batch is copied there.",
                stacklevel=2,
            )

    def _checked(self, sampler: Sampler[Any], shuffle: bool) -> OnlineSampler:
        if shuffle:
            raise ArgumentError("DeviceLoader.shuffle must be False with a sampler, which gives the order, got True.")
        if isinstance(sampler, OnlineSampler) and sampler.rows == self.rows:
            return sampler
        got = f"{type(sampler).__name__} for {getattr(sampler, 'rows', 'other')} rows"
        raise ArgumentError(f"DeviceLoader.sampler must be one of ours for {self.rows} rows, got {got}.")


def samples_of(loader: Any) -> Any:
    """The dataset of any loader, to be counted and read by row; ``None`` where it has none."""
    dataset = getattr(loader, "dataset", None)
    return _Samples(dataset) if isinstance(loader, DeviceLoader) and _is_columns(dataset) else dataset


class _Samples:
    """Columns, row by row: their container has the length of a row, and is read by column."""

    def __init__(self, columns: Any) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(_leaves(self._columns)[0])

    def __getitem__(self, row: int) -> Any:
        return _each(self._columns, lambda leaf: leaf[row])


class _InOrder(OnlineSampler):
    """All rows once, in order or shuffled."""

    def __init__(self, rows: int, shuffle: bool, seed: int) -> None:
        super().__init__(rows, seed=seed)
        self.shuffle = shuffle
        self._order: tuple[int, Tensor] | None = None

    owner = "DeviceLoader"

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        start = self._stream.drawn
        places = torch.arange(start, start + count, device=self.device) % self.rows  # past the end: for all ranks alike
        return Drawn(self._shuffled().index_select(0, places) if self.shuffle else places)

    def _shuffled(self) -> Int[Tensor, "rows"]:
        if self._order is None or self._order[0] != self.epoch or self._order[1].device != self.device:
            generator = generator_at(torch.device("cpu"), self.seed, self.epoch)  # the same order on any device
            self._order = self.epoch, torch.randperm(self.rows, generator=generator).to(self.device)
        return self._order[1]


class _Batches:
    """Batches of row ids, on the device."""

    def __init__(self, sampler: OnlineSampler, batch_size: int, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __len__(self) -> int:
        rows, size = len(self.sampler), self.batch_size
        return rows // size if self.drop_last else -(-rows // size)

    def __iter__(self) -> Iterator[Int[Tensor, "rows"]]:
        held = torch.empty(0, dtype=torch.int64)
        for ids in self.sampler.draws():
            # What a checkpoint of other batches had on its way need not be as long as a batch.
            held = torch.cat([held, ids]) if len(held) else ids
            while len(held) >= self.batch_size:
                yield held[: self.batch_size]
                held = held[self.batch_size :]
        if len(held) and not self.drop_last:
            yield held


def _columns(dataset: Any) -> Any:
    """The tensors of a dataset, in the form that a batch will have."""
    if isinstance(dataset, TensorDataset):
        dataset = list(dataset.tensors)  # as default_collate gives them
    elif not isinstance(dataset, Tensor) and not _is_columns(dataset):
        rows = range(length_of("DeviceLoader", dataset))
        many = getattr(dataset, "__getitems__", None)
        dataset = default_collate(many(list(rows)) if many else [dataset[row] for row in rows])
    lengths = {len(leaf) if isinstance(leaf, Tensor) and leaf.dim() else 0 for leaf in _leaves(dataset)}
    if len(lengths) != 1 or 0 in lengths:
        raise ArgumentError(
            f"DeviceLoader.dataset must hold tensors with one row per sample each, got {describe(dataset)}. What "
            "cannot be put into one tensor needs a DataLoader."
        )
    return dataset


def _is_columns(dataset: Any) -> bool:
    return not isinstance(dataset, (Dataset, Tensor)) and children_of(dataset) is not None


def _leaves(part: Any) -> list[Any]:
    children = children_of(part)
    return [part] if children is None else [leaf for _, child in children for leaf in _leaves(child)]


def _each(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    children = children_of(part)
    return change(part) if children is None else rebuild(part, [_each(child, change) for _, child in children])


def _room(device: torch.device) -> float:
    """Bytes that are free on a device, as far as it says."""
    known = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return math.inf if known is None else float(known(device)[0])
