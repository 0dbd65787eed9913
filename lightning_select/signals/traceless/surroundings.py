"""What a step finds around it when it is run for scoring, and everything that is put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lightning_select.batch import tensors_of
from lightning_select.signals.layout.experiments import device_of
from lightning_select.signals.sharded import left_sharded, sharding_parts
from lightning_select.signals.traceless.casts import fresh_casts
from lightning_select.signals.traceless.generators import Generators
from lightning_select.signals.traceless.gradients import GradientKeeper
from lightning_select.signals.traceless.optimizers import options_kept
from lightning_select.signals.traceless.quiet import muted
from lightning_select.signals.traceless.snapshot import ModuleKeeper
from lightning_select.torch_compat import MODULE_HOOKS, MODULE_PARAMETERS, hooks_of
from lightning_select.types import Batch

__all__ = ["Surroundings", "registrations_kept"]


@contextmanager
def registrations_kept(module: nn.Module) -> Iterator[None]:
    """Hooks, which weights are trained, and the default dtype are as before; a step may end before it undoes them.

    A step that adds a hook once, behind a flag of the module, adds it again in training. Behind a flag that is kept
    elsewhere (on the class, in a global) it would not: add such hooks before training begins.
    """
    states = [vars(part) for part in module.modules()]
    tables = {id(table): dict(table) for state in states for name in MODULE_HOOKS if (table := state.get(name))}
    weights = [weight for state in states for weight in state.get(MODULE_PARAMETERS, {}).values() if weight is not None]
    trained = [weight.requires_grad for weight in weights]
    hooked = [[dict(table or {}) for table in hooks_of(weight)] for weight in weights]
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        for state in states:
            for name in MODULE_HOOKS:
                _put_back(state.get(name), tables.get(id(state.get(name)), {}))
        for weight, flag, before in zip(weights, trained, hooked, strict=True):
            for table, entries in zip(hooks_of(weight), before, strict=True):
                _put_back(table, entries)
            if weight.requires_grad != flag:
                weight.requires_grad_(flag)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)


def _put_back(table: dict[Any, Any] | None, before: dict[Any, Any]) -> None:
    """Most tables are empty and stay so."""
    if table is not None and (table or before) and table != before:
        table.clear()
        table.update(before)


class Surroundings:
    """Everything that a step may touch, kept as it is.

    Args:
        module: The LightningModule.
        trainer: Its Trainer, whose precision applies and whose loggers are muted.
        train_mode: Leave every submodule in the mode it is in, instead of switching to eval.

    Attributes:
        keeper: Keeps the state of the module.
        gradients: Keeps its gradients.
    """

    def __init__(self, module: nn.Module, trainer: Any, *, train_mode: bool) -> None:
        self.keeper = ModuleKeeper(module)
        self.gradients = GradientKeeper(module)
        self._module = module
        self._trainer = trainer
        self._train_mode = train_mode
        self._generators = Generators()
        self._differentiates = False
        self._sharding: list[Any] | None = None

    @contextmanager
    def around(self, batch: Batch, *, grad: bool = False, eager: bool = False) -> Iterator[None]:
        """The surroundings that training has, for as long as the context is open.

        Args:
            batch: What the step is given.
            grad: Let it make a graph.
            eager: Let nothing run compiled.
        """
        grad = grad or self._differentiates
        tensors = tuple(tensors_of(batch))
        if self._sharding is None:  # a module is sharded after it was set up
            self._sharding = sharding_parts(self._module)
        with ExitStack() as stack:
            stack.enter_context(self._generators.kept(device_of(tensors)))
            stack.enter_context(muted(self._module, self._trainer))
            stack.enter_context(options_kept(self._trainer))
            stack.enter_context(registrations_kept(self._module))
            stack.enter_context(self.gradients.kept(tensors, grad=grad))
            stack.enter_context(self.keeper.kept(tensors))
            stack.enter_context(left_sharded(self._sharding))
            if not self._train_mode:
                for attributes in map(vars, self._module.modules()):
                    if "training" in attributes:  # a wrapper may have the flag of what it wraps
                        attributes["training"] = False
            stack.enter_context(fresh_casts())
            stack.enter_context(torch.set_grad_enabled(grad))
            if eager:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self._trainer is not None:
                stack.enter_context(self._trainer.precision_plugin.train_step_context())
            yield

    def attempt(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``run`` returns. A step that takes a gradient itself fails without a graph; it gets one from then on."""
        try:
            return run(*args, **kwargs)
        except RuntimeError as error:
            if self._differentiates or type(error) is not RuntimeError or "grad" not in str(error):
                raise
        self._differentiates = True
        try:
            return run(*args, **kwargs)
        except Exception:
            self._differentiates = False
            raise
