"""How many rows a training run sends through its model, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lightning_select.batch import count_rows

__all__ = ["BACKWARD", "RowCount", "counted_rows"]

_STEPS = ("training_step", "selection_step")


BACKWARD = 2
"""What a backward pass of a row costs against a forward pass: one product for the input, one for the weights."""


@dataclass
class RowCount:
    """Rows so far.

    Attributes:
        rows: Rows that went through a forward pass.
        trained: Those of them whose pass was recorded for a backward pass.
        scoring: Do rows without a backward pass count? Not where only a report on the rows takes such passes.
    """

    rows: int = 0
    trained: int = 0
    scoring: bool = True

    @property
    def cost(self) -> int:
        """Forward passes of a row, a backward pass counted as two of them."""
        return self.rows + BACKWARD * self.trained


@contextmanager
def counted_rows(*kinds: type) -> Iterator[RowCount]:
    """Count every row that a training or scoring step of these classes is run on.

    The steps are wrapped on the class, so that scoring passes, the probes that learn how a step makes its loss, and
    copies of the module that are trained as reference models are all counted. Evaluation is not. A pass is followed by
    a backward pass if gradients are recorded in it: scoring runs without, training (of reference models too) with.

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
            if inside[0] or not (count.scoring or torch.is_grad_enabled()):
                return step(module, *args, **kwargs)
            rows = count_rows(args[0] if args else next(iter(kwargs.values())))
            count.rows += rows
            count.trained += rows if torch.is_grad_enabled() else 0
            inside[0] = True
            try:
                return step(module, *args, **kwargs)
            finally:
                inside[0] = False

        return wrapped

    return counted
