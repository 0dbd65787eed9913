"""Modules that are compiled: what a compiled step may hide, and that it shows it when it runs uncompiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from types import FunctionType
from typing import Any

from torch import nn

from lightning_select.compat import rank_zero_info
from lightning_select.errors import TrainingStepContractError
from lightning_select.signals.layout.probe import Run
from lightning_select.signals.memory import pass_on_out_of_memory
from lightning_select.torch_compat import is_compiled_function, is_compiled_part, is_compiler_error

__all__ = ["is_compiled", "may_be_compiled", "runs_compiled", "told_uncompiled", "whole_graphs_refused"]

_FRAMEWORKS = frozenset({"builtins", "torch", "lightning", "lightning_fabric", "pytorch_lightning"})


def is_compiled(module: nn.Module) -> bool:
    """Is the module, a part of it, or a function that it holds or names, compiled?"""
    parts = list(module.modules())
    held = chain.from_iterable(vars(part).values() for part in parts)
    return any(map(is_compiled_part, parts)) or any(map(is_compiled_function, chain(held, _named(module))))


def _named(module: nn.Module) -> Iterator[Any]:
    """What stands in the classes of the module, and what their methods name of the files they are in."""
    for kind in type(module).__mro__:
        for value in vars(kind).values() if kind.__module__.split(".")[0] not in _FRAMEWORKS else ():
            yield value
            if isinstance(value, FunctionType):
                yield from (value.__globals__.get(name) for name in value.__code__.co_names)


def may_be_compiled(module: nn.Module, error: Exception) -> bool:
    """Is the module compiled, or does an error of its step tell that something which it calls is?"""
    return is_compiled(module) or is_compiler_error(error)


def runs_compiled(module: nn.Module, trial: Callable[[], tuple[Run, Any]], names: tuple[str, ...]) -> bool:
    """Does a trial run of a compiled step make the reductions ``names``, which it makes uncompiled? Says so if not.

    What is traced while a torch function mode is watching may also fail: dynamo guards on objects of the mode that are
    gone by the next call, and a graph that must stay whole does not let its reductions be seen.
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


def whole_graphs_refused(
    module: nn.Module, step: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """What the step returns, run for good; it cannot be run again, for it may have changed something already.

    Raises:
        TrainingStepContractError: It calls something compiled that could not be found beforehand and cannot be watched.
    """
    try:
        return step(*args, **kwargs)
    except Exception as error:
        if not is_compiler_error(error):
            raise
        raise TrainingStepContractError(
            f"{type(module).__name__}.training_step must let torch.compile break its graph where it is watched, got "
            f"{type(error).__name__} from something compiled elsewhere. Compile it without fullgraph=True, or make it "
            "an attribute of the module."
        ) from error
