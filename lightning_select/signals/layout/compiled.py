"""Modules that are compiled: what a compiled step may hide, and that it shows it when it runs uncompiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lightning_select.compat import rank_zero_info
from lightning_select.signals.layout.probe import Run
from lightning_select.signals.memory import pass_on_out_of_memory
from lightning_select.torch_compat import is_compiled_part

__all__ = ["is_compiled", "runs_compiled", "told_uncompiled"]


def is_compiled(module: nn.Module) -> bool:
    """Is the module, or a part of it, compiled by ``module.compile()`` or ``torch.compile(module)``?"""
    return any(is_compiled_part(part) for part in module.modules())


def runs_compiled(module: nn.Module, trial: Callable[[], tuple[Run, Any]], names: tuple[str, ...]) -> bool:
    """Does a trial run of a compiled step make the reductions ``names``, which it makes uncompiled? Says so if not.

    What is traced while a torch function mode is watching may also fail: dynamo guards on objects of the mode that are
    gone by the next call.
    """
    if not is_compiled(module):
        return True
    try:
        seen = trial()[0].names == names
    except Exception as error:
        pass_on_out_of_memory(error)
        seen = False
    if not seen:
        told_uncompiled(module, "trained")
    return seen


def told_uncompiled(module: nn.Module, doing: str) -> None:
    """Say what it costs."""
    rank_zero_info(
        f"{type(module).__name__}.training_step hides the reductions of its loss where it is compiled, so it is "
        f"{doing} uncompiled. To keep it compiled, call the loss outside of what is compiled."
    )
