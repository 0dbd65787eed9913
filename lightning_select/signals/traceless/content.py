"""How to remember what one object holds, and to put it back; by the kind of object."""

from __future__ import annotations

import io
import random
import sys
import types
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from functools import lru_cache, partial
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "PLAIN",
    "TENSORS",
    "Restore",
    "attributes_of",
    "is_plain",
    "is_worth_a_look",
    "keep_object",
    "packages_of",
    "put_back",
    "ways_of",
]

Restore = Callable[[], Any]
Keep = Callable[[Any], tuple[Restore, Collection[Any]]]

_ARRAY = 2**21

PLAIN: frozenset[type] = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type, range, slice, torch.Size, torch.dtype, torch.device}
    | {types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType}
)
TENSORS: frozenset[type] = frozenset({Tensor, nn.Parameter})
# By package: who keeps an eye on its own state, or talks to the outside. A class is theirs if any base of it is.
_FRAMEWORKS = frozenset({"torch", "lightning", "lightning_fabric", "pytorch_lightning", "omegaconf"})
_SERVICES = frozenset({"wandb", "mlflow", "neptune", "comet_ml", "clearml", "datasets", "pandas", "pyarrow"})
_BASES = {"abc", "argparse", "builtins", "collections", "_collections_abc", "contextlib", "numbers", "types", "typing"}
_LEFT_ALONE = _FRAMEWORKS | _SERVICES | (sys.stdlib_module_names - _BASES)
_LIVE = frozenset({"threading", "queue", "_queue", "socket", "_socket", "subprocess", "concurrent", "multiprocessing"})


def is_plain(value: Any) -> bool:
    """Is there nothing in ``value`` that could change?"""
    return type(value) in PLAIN or (type(value) is tuple and all(map(is_plain, value)))


def _identical(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    """Do both hold the very same keys and values, in the same order?"""
    kind = _kind_of(now)
    return (
        dict.__len__(now) == len(before)
        and all(map(is_, kind.__iter__(now), before))
        and all(map(is_, kind.values(now), before.values()))
    )


def put_back(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    """Give ``now`` the content of ``before``, where it differs."""
    if _identical(now, before):
        return
    kind = _kind_of(now)
    if dict.__len__(now) != len(before) or not all(map(is_, kind.__iter__(now), before)):
        kind.clear(now)
    for key, value in before.items():
        kind.__setitem__(now, key, value)


def _kind_of(value: dict[Any, Any]) -> Any:
    return OrderedDict if isinstance(value, OrderedDict) else dict


def _keep_dict(value: dict[Any, Any]) -> tuple[Restore, Collection[Any]]:
    before = dict(_kind_of(value).items(value)) if isinstance(value, OrderedDict) else dict.copy(value)
    return partial(put_back, value, before), before.values()


def _keep_list(value: list[Any]) -> tuple[Restore, Collection[Any]]:
    before = list.copy(value)
    return partial(list.__setitem__, value, slice(None), before), before  # cheaper than to look for a change


def _keep_deque(value: deque[Any]) -> tuple[Restore, Collection[Any]]:
    before = list(deque.__iter__(value))

    def restore() -> None:
        if deque.__len__(value) != len(before) or not all(map(is_, deque.__iter__(value), before)):
            deque.clear(value)
            deque.extend(value, before)

    return restore, before


def _keep_set(value: set[Any]) -> tuple[Restore, Collection[Any]]:
    before = {id(entry): entry for entry in set.__iter__(value)}

    def restore() -> None:
        now = {id(entry): entry for entry in set.__iter__(value)}
        for entry in [now[key] for key in now.keys() - before.keys()]:
            set.discard(value, entry)
        for entry in [before[key] for key in before.keys() - now.keys()]:
            set.add(value, entry)

    return restore, before.values()


def _keep_tuple(value: Collection[Any]) -> tuple[Restore, Collection[Any]]:
    return _nothing, value


def _keep_array(value: Any) -> tuple[Restore, Collection[Any]]:
    if value.size > _ARRAY or not value.flags.writeable:
        return _nothing, ()
    before = np.array(value, subok=False)

    def restore() -> None:
        now = value.view(np.ndarray)  # made only now, since an array that has views cannot be resized
        if now.shape == before.shape:
            now[...] = before

    return restore, ()


def _keep_numbers(value: Any) -> tuple[Restore, Collection[Any]]:
    if len(value) > _ARRAY:
        return _nothing, ()
    before = value[:]

    def restore() -> None:
        if value != before:
            value[:] = before

    return restore, ()


def _keep_stream(value: Any) -> tuple[Restore, Collection[Any]]:
    return (_nothing if value.closed else partial(value.__setstate__, value.__getstate__())), ()


def _keep_torch_generator(value: torch.Generator) -> tuple[Restore, Collection[Any]]:
    return partial(value.set_state, value.get_state()), ()


def _keep_random(value: random.Random) -> tuple[Restore, Collection[Any]]:
    return partial(random.Random.setstate, value, random.Random.getstate(value)), ()


def _keep_numpy_generator(value: Any) -> tuple[Restore, Collection[Any]]:
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state(legacy=False)), ()
    bits = value if isinstance(value, np.random.BitGenerator) else value.bit_generator
    return partial(setattr, bits, "state", bits.state), ()


def keep_object(value: Any) -> tuple[Restore, Collection[Any]]:
    """The attributes of an object, in its ``__dict__`` and in its slots."""
    table = attributes_of(value)
    before = dict.copy(table)
    kind: Any = type(value)
    slots = [(slot, _read(slot, value)) for slot in _slots_of(kind)]
    content = [*before.values(), *(held for _, held in slots)]
    if any(map(_is_live, set(map(type, content)))):
        return _nothing, ()

    def restore() -> None:
        put_back(table, before)
        for slot, held in slots:
            if _read(slot, value) is not held:
                slot.__delete__(value) if held is _UNSET else slot.__set__(value, held)

    return restore, content


def attributes_of(value: Any) -> dict[str, Any]:
    """The ``__dict__`` of an object, past its class; an empty one where it has none."""
    try:
        table = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return table if isinstance(table, dict) else {}


def _read(slot: Any, value: Any) -> Any:
    try:
        return slot.__get__(value, type(value))
    except AttributeError:
        return _UNSET


@lru_cache(maxsize=4096)
def _slots_of(kind: Any) -> tuple[Any, ...]:
    owners = [base for base in kind.__mro__ if "__slots__" in vars(base)]
    return tuple(slot for base in owners for slot in vars(base).values() if type(slot) is types.MemberDescriptorType)


@lru_cache(maxsize=4096)
def _is_live(kind: Any) -> bool:
    return not _LIVE.isdisjoint(packages_of(kind))


@lru_cache(maxsize=4096)
def ways_of(kind: Any) -> tuple[Keep, ...]:
    """How to keep an object of this type; nothing where there is nothing to keep."""
    if issubclass(kind, (type, random.SystemRandom, np.memmap)):
        return ()
    content = tuple(keep for base, keep in _KEEPERS if issubclass(kind, base))
    has_attributes = kind.__dictoffset__ != 0 or bool(_slots_of(kind))
    return (*content, keep_object) if has_attributes and _LEFT_ALONE.isdisjoint(packages_of(kind)) else content


@lru_cache(maxsize=4096)
def is_worth_a_look(kind: Any) -> bool:
    """May an object of this type change, or hold one that does?"""
    return kind not in PLAIN and (issubclass(kind, (Tensor, nn.Module)) or bool(ways_of(kind)))


def packages_of(kind: Any) -> set[str]:
    """Where a class and its bases come from."""
    return {str(base.__module__).partition(".")[0] for base in kind.__mro__}


def _nothing() -> None:
    """There is nothing to put back."""


_UNSET = object()
_KEEPERS: tuple[tuple[Any, Keep], ...] = (
    (dict, _keep_dict),
    (list, _keep_list),
    (set, _keep_set),
    (deque, _keep_deque),
    ((tuple, frozenset), _keep_tuple),
    (np.ndarray, _keep_array),
    ((bytearray, array), _keep_numbers),
    ((io.StringIO, io.BytesIO), _keep_stream),
    (torch.Generator, _keep_torch_generator),
    (random.Random, _keep_random),
    ((np.random.Generator, np.random.RandomState, np.random.BitGenerator), _keep_numpy_generator),
)
