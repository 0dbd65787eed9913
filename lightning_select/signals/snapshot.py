"""Put a module and a batch back exactly as they were after user code ran on them.

A training step changes more than it returns: BatchNorm statistics, the state of torchmetrics objects, lists that
collect outputs, counters, the weights of a momentum encoder, a queue of negatives, the batch itself. `ModuleKeeper`
restores all of these and copies only what is written to:

* a write that passes through a torch function is announced just before it happens (`ModuleKeeper.before_write`);
* a write deep inside a kernel (BatchNorm, an embedding with ``max_norm``) is noticed in the first run, by `WriteWatch`
  and by comparing values, and what it touched is copied up front from then on.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import Metric

__all__ = ["ModuleKeeper", "WriteWatch"]

_MACHINERY = frozenset(vars(nn.Module())) | {"_trainer", "_fabric"}
_CONTAINERS = (list, dict, set, collections.deque)


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
        self._module = module
        self._first = True
        self._written_by_kernels: set[int] = set()
        self._untidy: set[int] = set()
        self._owned: dict[int, Tensor] | None = None
        self._batch: list[Tensor] = []
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}
        self._swapped: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def kept(self, batch: Iterable[Tensor] = ()) -> Iterator[None]:
        """Everything that happens to the module and the batch inside is undone at the end, also after an error."""
        self._batch, self._owned, self._saved, self._swapped = list(batch), None, {}, []
        modules = list(self._module.modules())
        owned: Iterable[dict[str, Any]] = (table for m in modules for table in (m._parameters, m._buffers) if table)
        tables = [(table, dict(table)) for table in owned]
        flags = [(module, module.training) for module in modules]
        attributes = [(module, _keep_attributes(module)) for module in modules if self._is_watched(module)]
        if self._first or self._written_by_kernels:
            for storage, tensor in self._owners().items():
                if self._first or storage in self._written_by_kernels:
                    self._save(tensor)
        watch = WriteWatch()
        try:
            if self._first:
                with watch:
                    yield
            else:
                yield
        finally:
            self._untidy.update(id(module) for module, restore in attributes if restore())
            for table, before in tables:
                if table != before:
                    table.clear()
                    table.update(before)
            for module, training in flags:
                vars(module)["training"] = training
            self._restore_values(watch.written)
            self._first, self._batch, self._owned = False, [], None

    def before_write(self, func: Callable[..., Any], target: Any) -> None:
        """Keep a copy of ``target``, if it is part of the module or the batch, just before ``func`` changes it."""
        if not isinstance(target, Tensor):
            return
        if func == _SET_DATA:
            self._swapped.append((target, target.data))
        elif (storage := _storage(target)) not in self._saved and storage in self._owners():
            self._save(self._owners()[storage])

    def _owners(self) -> dict[int, Tensor]:
        """Every tensor of the module and the batch by its storage; made when first asked for."""
        if self._owned is None:
            tensors = list(self._batch)
            tensors += [*self._module.parameters(), *self._module.buffers()]
            for module in self._module.modules():
                tensors += [value for value in vars(module).values() if isinstance(value, Tensor)]
                if isinstance(module, Metric):
                    lists = [value for value in vars(module).values() if isinstance(value, list)]
                    tensors += [tensor for values in lists for tensor in values if isinstance(tensor, Tensor)]
            self._owned = {_storage(tensor): tensor for tensor in tensors}
        return self._owned

    def _save(self, tensor: Tensor) -> None:
        self._saved[_storage(tensor)] = (tensor.data, tensor.detach().clone())

    def _restore_values(self, written: set[int]) -> None:
        for target, data in reversed(self._swapped):
            target.data = data
        with torch.no_grad():
            for storage, (data, values) in self._saved.items():
                if self._first and (storage in written or not torch.equal(data, values)):
                    self._written_by_kernels.add(storage)  # some kernels do not declare what they write
                data.copy_(values)

    def _is_watched(self, module: nn.Module) -> bool:
        return self._first or module is self._module or isinstance(module, Metric) or id(module) in self._untidy


def _keep_attributes(module: nn.Module) -> Callable[[], bool]:
    """Remember what the module's own ``__dict__`` holds; the returned function restores it and says if it differed."""
    before = {name: value for name, value in vars(module).items() if name not in _MACHINERY}
    contents = {name: value.copy() for name, value in before.items() if type(value) in _CONTAINERS}

    def restore() -> bool:
        now = vars(module)
        changed = any(name not in now or now[name] is not value for name, value in before.items())
        for name in [name for name in now if name not in before and name not in _MACHINERY]:
            del now[name]
            changed = True
        now.update(before)
        for name, content in contents.items():
            changed |= _refill(before[name], content)
        return changed

    return restore


def _refill(container: Any, content: Any) -> bool:
    """Give a container its old content back; was it different?"""
    new, old = (list(c.items()) if isinstance(c, dict) else list(c) for c in (container, content))
    if len(new) == len(old) and all(_is_same(a, b) for a, b in zip(new, old, strict=True)):
        return False
    container.clear()
    (container.update if isinstance(container, (dict, set)) else container.extend)(content)
    return True


def _is_same(new: Any, old: Any) -> bool:
    if type(new) is tuple and type(old) is tuple and len(new) == len(old):
        return all(a is b for a, b in zip(new, old, strict=True))
    return new is old


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
