"""Put a module and a batch back exactly as they were after user code ran on them.

A training step changes more than it returns: BatchNorm statistics, the state of torchmetrics objects, lists that
collect outputs, counters, the weights of a momentum encoder, a queue of negatives, the batch itself. `ModuleKeeper`
restores all of these. Of tensors it copies only what is written to:

* a write that passes through a torch function is announced just before it happens (`ModuleKeeper.before_write`);
* a write deep inside a kernel (BatchNorm, an embedding with ``max_norm``) is noticed in the first run, by `WriteWatch`
  and by comparing values, and what it touched is copied up front from then on.

The attributes of every submodule are compared after every pass (`ModuleTree`), also those of modules that are hidden
from ``Module.modules()`` in a list or an object. What attributes hold, and what cannot be put back, is said in
`lightning_select.signals.traceless.attributes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.parameter import is_lazy

from lightning_select.errors import ConfigurationError
from lightning_select.signals.contract import NotRestoredError
from lightning_select.signals.equality import same_values
from lightning_select.signals.memory import is_out_of_memory
from lightning_select.signals.traceless.iterators import DrawnError
from lightning_select.signals.traceless.module_tree import ModuleTree
from lightning_select.torch_compat import (
    TorchDispatchMode,
    beneath_functorch,
    in_functorch,
    schema_of,
    storage_id,
    unwrapped,
)

__all__ = ["SET_DATA", "ModuleKeeper", "WriteWatch"]

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class WriteWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the storage of every tensor that an operation writes to, through whatever alias."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run the operation and note what it writes."""
        kwargs = kwargs or {}
        for position, argument in enumerate(schema_of(func).arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[position] if position < len(args) else kwargs.get(argument.name)
                self.written.update(
                    _storage(tensor)
                    for tensor in (value if isinstance(value, (list, tuple)) else (value,))
                    if isinstance(tensor, Tensor)
                )
        return func(*args, **kwargs)


class ModuleKeeper:
    """Runs code on a module and a batch and puts both back afterwards.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._name, self._tree = type(module).__name__, ModuleTree(module)
        self._first = True
        self._written_by_kernels: set[int] = set()
        self._owned: dict[int, list[Tensor]] | None = None
        self._batch: list[Tensor] = []
        self._held: list[Tensor] = []
        self._saved: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._swapped: list[tuple[Tensor, Tensor]] = []
        self._announced: set[int] = set()

    @property
    def is_new(self) -> bool:
        """Has no pass shown yet what a step writes to, so that everything is copied and watched?"""
        return self._first

    @contextmanager
    def kept(self, batch: Iterable[Tensor] = (), *, outlived: bool = False) -> Iterator[None]:
        """Everything that happens to the module and the batch inside is undone at the end, also after an error.

        Args:
            batch: Tensors of the batch.
            outlived: A graph that is made inside is differentiated later. Torch is then told of what is put back, so
                that it refuses a graph that needs it as it was, instead of going wrong in silence.
        """
        self._batch, self._held = list(batch), self._tree.keep()
        written: set[int] = set()
        first = self._first
        try:
            self._tree.close_iterators()
            if first or self._written_by_kernels:
                for storage in self._owners().keys() if first else self._written_by_kernels:
                    self._save(storage)
            if first:
                with WriteWatch() as watch:
                    written = watch.written
                    yield
                first = False  # one that fails on its way has not shown all that a step writes to
            else:
                yield
        except DrawnError as error:
            raise NotRestoredError(str(error)) from None
        finally:
            self._tree.restore()
            if outlived:
                self._tell_of_changes()
            self._restore_values(written)
            self._first, self._batch, self._held, self._owned = first, [], [], None

    def before_write(self, func: Callable[..., Any], target: Any) -> None:
        """Keep a copy of ``target``, if it is part of the module or the batch, just before ``func`` changes it."""
        if not isinstance(target, Tensor):
            return
        if in_functorch():  # a wrap has no storage of its own, and writes to that of what it wraps
            with beneath_functorch():
                self._save_before_write(func, unwrapped(target))
        else:
            self._save_before_write(func, target)

    def _save_before_write(self, func: Callable[..., Any], target: Tensor) -> None:
        if func == SET_DATA:
            self._swapped.append((target, target.data))
            return
        storage = _storage(target)
        self._announced.add(storage)
        if storage not in self._saved:
            self._save(storage)

    def _owners(self) -> dict[int, list[Tensor]]:
        """Every tensor of the module and the batch by its storage; made when first asked for."""
        if self._owned is None:
            self._owned = {}
            for tensor in chain(self._batch, self._tree.tensors(), self._held):
                if is_lazy(tensor):
                    raise ConfigurationError(
                        f"{self._name} must have all its weights before its rows are scored, got a "
                        f"{type(tensor).__name__}. Run it on a batch once, in setup or configure_model."
                    )
                if not tensor.is_inference() and not tensor.is_meta:  # nobody can write to these
                    self._owned.setdefault(_storage(tensor), []).append(tensor)
        return self._owned

    def _save(self, storage: int) -> None:
        """Copy every tensor on a storage: several may be views of parts of it."""
        if (tensors := self._owners().get(storage)) is not None:
            # What a sparse tensor gives as its data is another tensor, of the same numbers until it is written to.
            targets = [tensor.data if tensor.layout is torch.strided else tensor for tensor in tensors]
            self._saved[storage] = [(target, target.detach().clone()) for target in targets]

    def _tell_of_changes(self) -> None:
        # What kernels write (BatchNorm) is not told: they save it with the graph without a need of it.
        changed = [owned for storage in self._announced & self._saved.keys() for owned in self._owners()[storage]]
        increment_version([*changed, *(target for target, _ in self._swapped)])

    def _restore_values(self, written: set[int]) -> None:
        for target, data in reversed(self._swapped):
            target.data = data
        failure: Exception | None = None
        with torch.no_grad():
            for storage, copies in self._saved.items():
                if self._first:
                    if storage not in written and all(same_values(data, values) for data, values in copies):
                        continue
                    self._written_by_kernels.add(storage)  # some kernels do not declare what they write
                for data, values in copies:
                    failure = self._put_back(data, values) or failure
        self._saved, self._swapped, self._announced = {}, [], set()
        if failure is not None:  # all others are as they were by now
            raise failure

    def _put_back(self, data: Tensor, values: Tensor) -> Exception | None:
        try:
            if data.layout in _COMPRESSED:  # no copy goes where there is another number of entries
                data.resize_as_sparse_(values)
            data.copy_(values)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return error
            return NotRestoredError(
                f"{self._name}.training_step must leave its tensors such that they can be put back, got a "
                f"{data.layout} one of shape {tuple(values.shape)} that cannot: {error} Change a copy of it."
            )
        return None


def _storage(tensor: Tensor) -> int:
    return storage_id(tensor) if tensor.layout is torch.strided else id(tensor)


SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
