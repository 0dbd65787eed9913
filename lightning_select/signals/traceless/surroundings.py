"""What a step finds around it when it is run for scoring, and everything that is put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.jit import ScriptModule

from lightning_select.batch import tensors_of
from lightning_select.signals.contract import NotRestoredError
from lightning_select.signals.layout.experiments import device_of
from lightning_select.signals.sharded import left_sharded, sharding_parts
from lightning_select.signals.traceless.casts import fresh_casts
from lightning_select.signals.traceless.generators import Generators
from lightning_select.signals.traceless.gradients import GradientKeeper
from lightning_select.signals.traceless.module_tree import modules_of
from lightning_select.signals.traceless.optimizers import options_kept
from lightning_select.signals.traceless.quiet import muted
from lightning_select.signals.traceless.registrations import registrations_kept
from lightning_select.signals.traceless.snapshot import ModuleKeeper
from lightning_select.types import Batch

__all__ = ["Surroundings"]


class Surroundings:
    """Everything that a step may touch, kept as it is.

    Args:
        module: The LightningModule.
        trainer: Its Trainer, whose precision applies and whose loggers are muted.
        train_mode: Leave every submodule in the mode it is in, instead of switching to eval.

    Attributes:
        keeper: Keeps the state of the module.
        gradients: Keeps its gradients.
        trained: Which of its weights are trained, as the last pass began.
    """

    def __init__(self, module: nn.Module, trainer: Any, *, train_mode: bool) -> None:
        self.keeper = ModuleKeeper(module)
        self.gradients = GradientKeeper(module)
        self.trained: tuple[bool, ...] = ()
        self._module = module
        self._trainer = trainer
        self._train_mode = train_mode
        self._generators = Generators()
        self._differentiates = False
        self._sharding: list[Any] | None = None

    @contextmanager
    def around(
        self, batch: Batch, *, grad: bool = False, eager: bool = False, outlived: bool = False
    ) -> Iterator[None]:
        """The surroundings that training has, for as long as the context is open.

        Args:
            batch: What the step is given.
            grad: Let it make a graph.
            eager: Let nothing run compiled.
            outlived: Let it make a graph that is differentiated later.
        """
        grad = grad or outlived or self._differentiates
        tensors = tuple(tensors_of(batch))
        if self._sharding is None:  # a module is sharded after it was set up
            self._sharding = sharding_parts(self._module)
        modules = modules_of(self._module)
        with (
            self._generators.kept(device_of(tensors)),
            muted(self._module, self._trainer),
            options_kept(self._trainer),
            # Before the gradients, which are to see what the step did to the flags of the weights.
            registrations_kept(modules) as self.trained,
            self.gradients.kept(tensors, grad=grad),
            self.keeper.kept(tensors, outlived=outlived),
            left_sharded(self._sharding) if self._sharding else nullcontext(),
        ):
            if not self._train_mode:
                for module, attributes in zip(modules, map(vars, modules), strict=True):
                    if "training" in attributes:  # a wrapper may have the flag of what it wraps
                        attributes["training"] = False
                    elif isinstance(module, ScriptModule) and hasattr(module, "training"):
                        module.training = False
            eager = eager or self.keeper.is_new  # its watch over writes is a mode below which torch compiles nothing
            with (
                fresh_casts(),
                torch.set_grad_enabled(grad),
                torch.compiler.set_stance("force_eager") if eager else nullcontext(),
                nullcontext() if self._trainer is None else self._trainer.precision_plugin.train_step_context(),
            ):
                yield

    def attempt(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``run`` returns. A step that takes a gradient itself fails without a graph; it gets one from then on.

        Raises:
            NotRestoredError: The step raised ``StopIteration``.
        """
        try:
            return self._attempt(partial(run, *args, **kwargs))
        except StopIteration as error:
            raise NotRestoredError(
                f"{type(self._module).__name__}.training_step must not let a StopIteration out while its rows are "
                "scored, got one, which Lightning would take for the end of the epoch. Start again with what ran out, "
                "or define selection_step(self, batch), which is scored in its place."
            ) from error

    def _attempt(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except RuntimeError as error:
            if self._differentiates or type(error) is not RuntimeError or not _is_of_gradients(error):
                raise
        self._differentiates = True
        try:
            return run()
        except Exception:
            self._differentiates = False
            raise


def _is_of_gradients(error: RuntimeError) -> bool:
    """Does torch miss a graph, or find that the graph of scalars of a scoring pass does not lead to the model?"""
    return any(word in str(error) for word in ("grad", "allow_unused"))
