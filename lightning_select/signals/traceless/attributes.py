"""Put back what the Python attributes of a module hold, however deep: containers, objects, arrays, random generators.

Every object keeps its identity; only its content is put back:

* lists, dicts, sets and deques, and their subclasses (``OrderedDict``, ``defaultdict``, ``Counter``, your own);
* objects of classes written in Python: their ``__dict__`` and their slots, past any property or ``__setattr__``;
* the state of ``torch.Generator``, ``random.Random`` and NumPy's generators;
* what is written to an ``io.StringIO`` or ``io.BytesIO``;
* numbers, flags, strings and tensors of scripted and traced modules;
* NumPy arrays, ``bytearray`` and ``array.array`` of at most two million entries. Larger ones are
  taken for data that a step only reads.

No ``__eq__`` of what is held is called; what changed is found by identity. Tensors and modules are reported, not kept:
see `lightning_select.signals.traceless.snapshot`.

What cannot be put back, or is not:

* iterators and generators cannot be rewound: who draws from one in an attribute, a list, a dict or an object is refused
  (see `lightning_select.signals.traceless.iterators`), except those of a list, a tuple or a range. One in a tuple, a
  deque, a set or a slot goes on, and so does a file;
* lists, dicts and objects that a scripted module holds stay as the step left them;
* a closure, a global and an attribute of a class are not seen;
* what belongs to torch, Lightning or the standard library (optimizers, datasets, loggers, Trainers), to a client of a
  tracking service or to a table of data, and objects that hold a thread, a queue or a socket, are left alone;
* a container of more than a thousand entries, all numbers, strings and tensors, gets its entries back, but what is
  written into these tensors stays. It is taken to go on so, and not searched again;
* ten thousand containers and objects are looked after, and a warning says so where there are more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lightning_select.compat import rank_zero_warn
from lightning_select.signals.traceless.content import (
    PLAIN,
    TENSORS,
    Restore,
    attributes_of,
    is_worth_a_look,
    keep_object,
    ways_of,
)
from lightning_select.signals.traceless.iterators import close_iterators, holds_iterators

__all__ = ["AttributeKeeper", "KeptAttributes"]

_MANY = 1_000
_NODES = 10_000


@dataclass(slots=True)
class KeptAttributes:
    """What was found in some attributes, and how to put it back."""

    restores: list[Restore] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    modules: dict[int, nn.Module] = field(default_factory=dict)
    holders: list[Any] = field(default_factory=list)

    def close_iterators(self, owner: str) -> None:
        """Let nobody draw from the iterators among what was found, until it is put back."""
        for holder in self.holders:
            close_iterators(holder, owner)

    def restore(self) -> None:
        """Give every object its old content."""
        for restore in self.restores:
            restore()


class AttributeKeeper:
    """Remembers what values and everything in them hold, pass after pass."""

    def __init__(self) -> None:
        self._flat: set[int] = set()
        self._warned = False

    def keep(self, values: Iterable[Any], known: Collection[int] = frozenset()) -> KeptAttributes:
        """Remember what ``values`` hold now.

        Args:
            values: The attributes.
            known: Ids of modules that need not be reported.
        """
        kept, flat, seen, found = KeptAttributes(), set[int](), set[int](), list(values)
        for value in found:  # grows as it goes, so that what is near the top comes first
            if id(value) in seen:
                continue
            seen.add(id(value))
            kind: Any = type(value)
            if isinstance(value, Tensor):
                kept.tensors.append(value)
            elif isinstance(value, nn.Module):
                if id(value) not in known:
                    kept.modules[id(value)] = value
            elif len(kept.restores) >= _NODES:
                self._warn(value)
                break
            else:
                for keep in ways_of(kind):
                    restore, content = keep(value)
                    kept.restores.append(restore)
                    if len(content) <= _MANY or id(value) not in self._flat:
                        held = set(map(type, content)) - PLAIN
                        if held and holds_iterators(held):
                            kept.holders.append(attributes_of(value) if keep is keep_object else value)
                        kinds = set(filter(is_worth_a_look, held))
                        if len(content) <= _MANY or not kinds <= TENSORS:
                            found.extend(entry for entry in content if type(entry) in kinds)
                            continue
                    flat.add(id(value))
        self._flat = flat
        return kept

    def _warn(self, value: Any) -> None:
        if not self._warned:
            rank_zero_warn(
                f"The module holds more than {_NODES:,} containers and objects; what a scoring pass changes in the "
                f"rest (at a {type(value).__name__}) stays changed."
            )
            self._warned = True
