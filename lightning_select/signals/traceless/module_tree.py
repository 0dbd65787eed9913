"""Put back the attributes, parameters, buffers and children of a module and of everything below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule

from lightning_select.compat import TRAINER_LINKS
from lightning_select.signals.traceless.attributes import AttributeKeeper, KeptAttributes
from lightning_select.signals.traceless.content import PLAIN, is_plain, put_back
from lightning_select.signals.traceless.iterators import close_iterators, holds_iterators
from lightning_select.torch_compat import MODULE_CHILDREN, MODULE_TABLES, scripted_values

__all__ = ["ModuleTree", "modules_of"]

Table = dict[str, Any]

_MACHINERY = frozenset(vars(nn.Module())) | TRAINER_LINKS


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
        self._drawn_from: list[nn.Module] = []
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

    def close_iterators(self) -> None:
        """Let nobody draw from what cannot be rewound, from `keep` to `restore`."""
        owner = type(self._root).__name__
        for module in self._drawn_from:
            close_iterators(vars(module), owner)
        self._content.close_iterators(owner)

    def restore(self) -> None:
        """Put everything back as it was at the last `keep`."""
        for now, before in zip(self._still_now, self._still_before, strict=True):
            now["training"] = before["training"]
        same_tables, still = self._has_same_tables(), _equal(self._still_now, self._still_before)
        if not still:
            self._note_restless()
        if not (still and same_tables):  # a table may be another one, and look the same
            for now, before in zip(self._still_now, self._still_before, strict=True):
                put_back(now, before)
        for module, before in zip(self._moving, self._moving_before, strict=True):
            put_back(vars(module), before)
        self._content.restore()
        if not same_tables:
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
        tables = [vars(module).get(name) for module in modules for name in MODULE_TABLES]
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
        values: list[Any] = []
        scripted: list[tuple[ScriptModule, Table]] = []
        self._drawn_from = []
        for module, before in zip(self._moving, self._moving_before, strict=True):
            others = [value for name, value in before.items() if name not in _MACHINERY and type(value) not in PLAIN]
            own = [value for value in others if not is_plain(value)]
            if isinstance(module, ScriptModule):
                scripted.append((module, scripted_values(module)))
            if holds_iterators(set(map(type, own))):
                self._drawn_from.append(module)
            values += own
        for _, held in scripted:
            values += [value for value in held.values() if isinstance(value, Tensor)]
        self._content = self._attributes.keep(values, self._known)
        self._content.restores += [partial(_put_back_scripted, module, held) for module, held in scripted]

    def _has_same_tables(self) -> bool:
        return (
            not any(self._empty)
            and list(chain(*self._full)) == self._names
            and all(map(is_, chain(*map(dict.values, self._full)), self._entries))
        )


def modules_of(root: nn.Module) -> list[nn.Module]:
    """All that ``root.modules()`` shows, in any order, without a generator for every level of the tree."""
    found = _modules_below(root)
    kinds: set[Any] = set(map(type, found))
    ways = {type(root).modules, *[kind.named_modules for kind in kinds]}
    return found if ways == {nn.Module.modules, nn.Module.named_modules} else list(root.modules())


def _modules_below(*tops: nn.Module) -> list[nn.Module]:
    """The modules and all their descendants, each once."""
    found = list(tops)
    known = set(map(id, found))
    for module in found:
        children = vars(module).get(MODULE_CHILDREN)
        for child in children.values() if isinstance(children, dict) else module.children():
            if child is not None and id(child) not in known:
                known.add(id(child))
                found.append(child)
    return found


def _put_back_scripted(module: ScriptModule, before: Table) -> None:
    for name, value in before.items():
        now = getattr(module, name)
        if now is not value and (isinstance(value, Tensor) or isinstance(now, Tensor) or now != value):
            setattr(module, name, value)


def _equal(now: list[Table], before: list[Table]) -> bool:
    """Are these the same? Only where they are not is an ``==`` of a value asked, and it may fail."""
    try:
        return now == before
    except Exception:
        return False
