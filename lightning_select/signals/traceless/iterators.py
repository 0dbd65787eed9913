"""Iterators that a module holds: what was drawn cannot be put back, so that a scoring pass may not draw from them."""

from __future__ import annotations

import copy
import io
from functools import lru_cache
from typing import Any, NoReturn

from torch import nn

from lightning_select.signals.contract import NotRestoredError
from lightning_select.signals.traceless.content import packages_of, ways_of

__all__ = ["close_iterators", "holds_iterators"]

_COPIED: frozenset[Any] = frozenset({type(iter([])), type(iter(())), type(iter(range(0)))})
"""Iterators that say where they are, so that a copy can be drawn from in their place."""


class _Closed:
    """Stands where an iterator was, and says what to do to whoever draws from it or asks it for anything."""

    def __init__(self, owner: str, place: str, kind: str) -> None:
        self._seen = owner, place, kind

    def __iter__(self) -> _Closed:
        return self

    def __next__(self) -> NoReturn:
        owner, place, kind = self._seen
        raise NotRestoredError(
            f"{owner}.training_step must not draw from an iterator that the module holds while its rows are scored, "
            f"since what is drawn cannot be put back, got {place}, a {kind}. Define selection_step(self, batch), which "
            "is scored in its place; where nothing but LossReweighting or a report reads the step, drawing in "
            "on_train_batch_start does too."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        next(self)


def holds_iterators(kinds: set[Any]) -> bool:
    """Is one of these types that of an iterator which nobody can put back?"""
    return any(map(_is_one_way, kinds))


def close_iterators(holder: Any, owner: str) -> None:
    """Put something in the place of each iterator in a dict or a list.

    Args:
        holder: What holds them, and gets its entries back afterwards; nothing is done to any other container.
        owner: Name of the module at the top.
    """
    container: Any = dict if isinstance(holder, dict) else list
    if not isinstance(holder, container):
        return
    for key, value in list(dict.items(holder) if container is dict else enumerate(list.copy(holder))):
        kind: Any = type(value)
        if _is_one_way(kind):
            closed = _Closed(owner, repr(key), kind.__name__)
            container.__setitem__(holder, key, copy.copy(value) if kind in _COPIED else closed)


@lru_cache(maxsize=4096)
def _is_one_way(kind: Any) -> bool:
    """Is it an iterator, no file or module, and of no class whose attributes are put back?"""
    if not hasattr(kind, "__next__") or hasattr(kind, "write") or issubclass(kind, (nn.Module, io.IOBase)):
        return False
    return not ways_of(kind) and "unittest" not in packages_of(kind)  # a mock has every method
