"""How many rows a training run sends through its model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning_select.batch import count_rows

__all__ = ["RowCount", "counted_rows"]

_STEPS = ("training_step", "selection_step")


@dataclass
class RowCount:
    """Rows so far."""

    rows: int = 0


@contextmanager
def counted_rows(*kinds: type) -> Iterator[RowCount]:
    """Count every row that a training or scoring step of these classes is run on.

    The steps are wrapped on the class, so that scoring passes, the probes that learn how a step makes its loss, and
    copies of the module that are trained as reference models are all counted. Evaluation is not.

    Args:
        kinds: Classes of the module and of modules that it is compared with.
    """
    count, undo = RowCount(), []
    counted = _counter(count)
    try:
        for kind in dict.fromkeys(kinds):
            for name in _STEPS:
                if hasattr(kind, name):
                    undo.append((kind, name, vars(kind).get(name)))
                    setattr(kind, name, counted(getattr(kind, name)))
        yield count
    finally:
        for kind, name, own in reversed(undo):
            if own is None:
                delattr(kind, name)
            else:
                setattr(kind, name, own)


def _counter(count: RowCount) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that counts; a step that calls another one is counted once."""
    inside = [False]

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def wrapped(module: Any, *args: Any, **kwargs: Any) -> Any:
            if inside[0]:
                return step(module, *args, **kwargs)
            count.rows += count_rows(args[0] if args else next(iter(kwargs.values())))
            inside[0] = True
            try:
                return step(module, *args, **kwargs)
            finally:
                inside[0] = False

        return wrapped

    return counted
