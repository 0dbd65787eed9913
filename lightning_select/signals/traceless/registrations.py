"""Put back what user code registers on modules and weights: hooks, and which weights are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from lightning_select.signals.traceless.content import put_back
from lightning_select.torch_compat import MODULE_HOOKS, MODULE_PARAMETERS, hooks_of

__all__ = ["registrations_kept"]

Table = dict[Any, Any]

_HOOKS = itemgetter(*MODULE_HOOKS)


@contextmanager
def registrations_kept(modules: Sequence[nn.Module]) -> Iterator[tuple[bool, ...]]:
    """Hooks, which weights are trained, and the default dtype are as before; a step may end before it undoes them.

    A step that adds a hook once, behind a flag of the module, adds it again in training. Behind a flag that is kept
    elsewhere (on the class, in a global) it would not: add such hooks before training begins.

    Args:
        modules: The modules, each once.

    Yields:
        Which of their weights are trained, one flag for each.
    """
    states = list(map(vars, modules))
    weights = [weight for state in states for weight in state.get(MODULE_PARAMETERS, {}).values() if weight is not None]
    trained = tuple([weight.requires_grad for weight in weights])
    filled = list(filter(None, _hook_tables(states, weights)))
    before = {id(table): table.copy() for table in filled}
    dtype = torch.get_default_dtype()
    try:
        yield trained
    finally:
        now = _hook_tables(states, weights)
        if before or any(now):  # most tables are empty and stay so
            for table in now:
                if table is not None:
                    put_back(table, before.get(id(table), {}))
        for weight, flag in zip(weights, trained, strict=True):
            if weight.requires_grad != flag:
                weight.requires_grad_(flag)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)


def _hook_tables(states: Sequence[Table], weights: Sequence[Tensor]) -> list[Table | None]:
    """Every table of hooks, of modules and of weights."""
    try:
        of_modules = list(chain.from_iterable(map(_HOOKS, states)))
    except KeyError:  # a wrapper need not have all that a module has
        of_modules = [state.get(name) for state in states for name in MODULE_HOOKS]
    return [*of_modules, *hooks_of(weights)]
