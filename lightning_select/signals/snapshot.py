"""Put a module and a batch back exactly as they were after user code ran on them.

A training step changes more than it returns: BatchNorm statistics, the state of torchmetrics objects, lists that
collect outputs, counters, the weights of a momentum encoder, a queue of negatives, the batch itself. `ModuleKeeper`
restores all of these. Of tensors it copies only what is written to:

* a write that passes through a torch function is announced just before it happens (`ModuleKeeper.before_write`);
* a write deep inside a kernel (BatchNorm, an embedding with ``max_norm``) is noticed in the first run, by `WriteWatch`
  and by comparing values, and what it touched is copied up front from then on.

The attributes of every submodule are compared after every pass (`ModuleTree`), also those of modules that are hidden
from ``Module.modules()`` in a list or an object. What attributes hold, and what cannot be put back, is said in
`lightning_select.signals.attributes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_select.signals.attributes import AttributeKeeper, KeptAttributes, is_plain, put_back

__all__ = ["ModuleKeeper", "ModuleTree", "WriteWatch"]

Table = dict[str, Any]

_MACHINERY = frozenset(vars(nn.Module())) | {"_trainer", "_fabric", "_hparams_initial"}
_TABLES = ("_parameters", "_buffers", "_modules")


class WriteWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the storage of every tensor that an operation writes to, through whatever alias."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run the operation and note what it writes."""
        kwargs = kwargs or {}
        for position, argument in enumerate(func._schema.arguments):
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
        self._tree = ModuleTree(module)
        self._first = True
        self._written_by_kernels: set[int] = set()
        self._owned: dict[int, list[Tensor]] | None = None
        self._batch: list[Tensor] = []
        self._held: list[Tensor] = []
        self._saved: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._swapped: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def kept(self, batch: Iterable[Tensor] = ()) -> Iterator[None]:
        """Everything that happens to the module and the batch inside is undone at the end, also after an error."""
        self._batch, self._held = list(batch), self._tree.keep()
        written: set[int] = set()
        if self._first or self._written_by_kernels:
            for storage in self._owners().keys() if self._first else self._written_by_kernels:
                self._save(storage)
        try:
            if self._first:
                with WriteWatch() as watch:
                    written = watch.written
                    yield
            else:
                yield
        finally:
            self._tree.restore()
            self._restore_values(written)
            self._first, self._batch, self._held, self._owned = False, [], [], None

    def before_write(self, func: Callable[..., Any], target: Any) -> None:
        """Keep a copy of ``target``, if it is part of the module or the batch, just before ``func`` changes it."""
        if not isinstance(target, Tensor):
            return
        if func == _SET_DATA:
            self._swapped.append((target, target.data))
        elif (storage := _storage(target)) not in self._saved:
            self._save(storage)

    def _owners(self) -> dict[int, list[Tensor]]:
        """Every tensor of the module and the batch by its storage; made when first asked for."""
        if self._owned is None:
            self._owned = {}
            for tensor in chain(self._batch, self._tree.tensors(), self._held):
                if not tensor.is_inference() and not tensor.is_meta:  # nobody can write to these
                    self._owned.setdefault(_storage(tensor), []).append(tensor)
        return self._owned

    def _save(self, storage: int) -> None:
        """Copy every tensor on a storage: several may be views of parts of it."""
        if (tensors := self._owners().get(storage)) is not None:
            self._saved[storage] = [(tensor.data, tensor.detach().clone()) for tensor in tensors]

    def _restore_values(self, written: set[int]) -> None:
        for target, data in reversed(self._swapped):
            target.data = data
        with torch.no_grad():
            for storage, copies in self._saved.items():
                if self._first:
                    if storage not in written and all(torch.equal(data, values) for data, values in copies):
                        continue
                    self._written_by_kernels.add(storage)  # some kernels do not declare what they write
                for data, values in copies:
                    data.copy_(values)
        self._saved, self._swapped = {}, []


class ModuleTree:
    """The attributes, parameters, buffers and children of a module and of everything below it.

    Most modules hold nothing but numbers and never change: these are compared with a copy made once, in one call each
    time. The attributes of the others are copied in every pass.

    Args:
        root: The module at the top.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._hidden: dict[int, nn.Module] = {}
        self._restless: set[int] = set()
        self._still: list[nn.Module] = []
        self._still_before: list[Table] = []
        self._moving: list[nn.Module] = []
        self._moving_before: list[Table] = []
        self._attributes = AttributeKeeper()
        self._content = KeptAttributes()
        self._survey({})

    def keep(self) -> list[Tensor]:
        """Remember everything as it is now; returns the tensors among the attributes."""
        self._still_now = list(map(vars, self._still))
        if not self._has_same_tables() or not _equal(self._still_now, self._still_before):
            self._survey(self._hidden)
        self._keep_content()
        if self._content.modules.keys() != self._hidden.keys():
            self._survey({})
            self._keep_content()
            while self._content.modules.keys() - self._hidden.keys():
                self._survey({**self._hidden, **self._content.modules})
                self._keep_content()
        return self._content.tensors

    def restore(self) -> None:
        """Put everything back as it was at the last `keep`."""
        for now, before in zip(self._still_now, self._still_before, strict=True):
            now["training"] = before["training"]
        if not _equal(self._still_now, self._still_before):
            self._note_restless()
            for now, before in zip(self._still_now, self._still_before, strict=True):
                put_back(now, before)
        for module, before in zip(self._moving, self._moving_before, strict=True):
            put_back(vars(module), before)
        self._content.restore()
        if not self._has_same_tables():
            for table, before in self._tables:
                put_back(table, before)
        self._content, self._moving_before, self._still_now = KeptAttributes(), [], []

    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers."""
        for top in (self._root, *self._hidden.values()):
            yield from top.parameters()
            yield from top.buffers()

    def _survey(self, hidden: Mapping[int, nn.Module]) -> None:
        """Walk the tree anew and sort its modules into those that are still and those that may move."""
        self._note_restless()
        modules = _modules_below(self._root, *hidden.values())
        self._hidden, self._known = dict(hidden), {id(module) for module in _modules_below(self._root)}
        self._still, self._moving = [], []
        for module in modules:
            (self._still if self._is_still(module) else self._moving).append(module)
        self._still_now = list(map(vars, self._still))
        self._still_before = [now.copy() for now in self._still_now]
        tables = [vars(module).get(name) for module in modules for name in _TABLES]
        self._tables = [(table, table.copy()) for table in tables if isinstance(table, dict)]
        self._full = [table for table, before in self._tables if before]
        self._empty = [table for table, before in self._tables if not before]
        self._names, self._entries = list(chain(*self._full)), list(chain(*map(dict.values, self._full)))

    def _is_still(self, module: nn.Module) -> bool:
        own = vars(module)
        if id(module) in self._restless or "training" not in own:
            return False
        return all(name in _MACHINERY or is_plain(value) for name, value in own.items())

    def _note_restless(self) -> None:
        """Modules that were taken for still and are not."""
        for module, before in zip(self._still, self._still_before, strict=True):
            now = vars(module)
            if now.keys() != before.keys() or any(now[name] is not before[name] for name in now if name != "training"):
                self._restless.add(id(module))
                self._names = []  # the next pass surveys anew

    def _keep_content(self) -> None:
        self._moving_before = [vars(module).copy() for module in self._moving]
        values = [
            value
            for before in self._moving_before
            for name, value in before.items()
            if name not in _MACHINERY and not is_plain(value)
        ]
        self._content = self._attributes.keep(values, self._known)

    def _has_same_tables(self) -> bool:
        return (
            not any(self._empty)
            and list(chain(*self._full)) == self._names
            and all(map(is_, chain(*map(dict.values, self._full)), self._entries))
        )


def _modules_below(*tops: nn.Module) -> list[nn.Module]:
    """The modules and all their descendants, each once."""
    found = list(tops)
    known = set(map(id, found))
    for module in found:
        children = vars(module).get("_modules")
        for child in children.values() if isinstance(children, dict) else module.children():
            if child is not None and id(child) not in known:
                known.add(id(child))
                found.append(child)
    return found


def _equal(now: list[Table], before: list[Table]) -> bool:
    """Are these the same? Only where they are not is an ``==`` of a value asked, and it may fail."""
    try:
        return now == before
    except Exception:
        return False


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
