"""Iterators that a module holds: what was drawn cannot be put back, so that a scoring pass may not draw from them."""

from __future__ import annotations

import copy
import io
from functools import lru_cache
from typing import Any, NoReturn

from torch import nn

from lightning_select.signals.traceless.content import packages_of, ways_of

__all__ = ["DrawnError", "close_iterators", "holds_iterators"]

_COPIED: frozenset[Any] = frozenset({type(iter([])), type(iter(())), type(iter(range(0)))})
"""Iterators that say where they are, so that a copy can be drawn from in their place."""

_DRAWING = frozenset({"send", "throw", "close", "next", "fetchone", "fetchmany", "fetchall"})
_RESTARTED = frozenset({"lightning", "pytorch_lightning"})
"""Whose iterators are loaders, which begin anew with every `iter`."""


class DrawnError(BaseException):
    """Someone draws from a closed iterator. No ``Exception``: a step may pass over what it cannot draw, for ever."""


class _Closed:
    """Stands where an iterator was, answers like it, and refuses to be drawn from."""

    def __init__(self, original: Any, owner: str, place: str) -> None:
        self._original, self._seen = original, (owner, place)

    def __iter__(self) -> _Closed:
        return self

    def __len__(self) -> int:
        return len(self._original)

    def __next__(self) -> NoReturn:
        owner, place = self._seen
        raise DrawnError(
            f"{owner}.training_step must not draw from an iterator that the module holds while its rows are scored, "
            f"since what is drawn cannot be put back, got {place}, a {type(self._original).__name__}. Define "
            "selection_step(self, batch), which is scored in its place; where nothing but LossReweighting or a report "
            "reads the step, drawing in on_train_batch_start does too."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return next(self) if name in _DRAWING else getattr(self._original, name)


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
            instead = copy.copy(value) if kind in _COPIED else _Closed(value, owner, repr(key))
            container.__setitem__(holder, key, instead)


@lru_cache(maxsize=4096)
def _is_one_way(kind: Any) -> bool:
    """Is it an iterator, no file or module, and of no class whose attributes are put back?"""
    if not hasattr(kind, "__next__") or hasattr(kind, "write") or issubclass(kind, (nn.Module, io.IOBase)):
        return False
    packages = packages_of(kind)
    return (
        not ways_of(kind) and _RESTARTED.isdisjoint(packages) and "unittest" not in packages
    )  # a mock has all methods
