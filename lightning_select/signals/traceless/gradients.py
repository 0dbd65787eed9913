"""Put the gradients of a module back as they were, for steps that differentiate something themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["GradientKeeper"]


class GradientKeeper:
    """Keeps what a step's own ``backward()`` and ``requires_grad_()`` would leave on the parameters and the batch.

    Args:
        module: The module.

    Attributes:
        accumulates: Did a step add to the gradients of parameters itself?
    """

    def __init__(self, module: nn.Module) -> None:
        self.accumulates = False
        self._module = module
        self._watched = True  # until a run has shown that there is nothing to watch

    @contextmanager
    def kept(self, batch: Iterable[Tensor], *, grad: bool) -> Iterator[None]:
        """Gradients that appear inside are gone at the end, and what needs a gradient is what needed one before.

        Args:
            batch: Tensors of the batch.
            grad: Will gradients be recorded inside? Without, parameters are left alone as soon as a run has left them
                alone.
        """
        parameters = list(self._module.parameters()) if grad or self._watched else []
        tensors = [*parameters, *batch]
        flags = [tensor.requires_grad for tensor in tensors]
        aside = [(tensor, tensor.grad) for tensor in tensors if tensor.is_leaf]
        for tensor, gradient in aside:
            if gradient is not None:
                tensor.grad = None
        try:
            yield
        finally:
            changed = [tensor.requires_grad != flag for tensor, flag in zip(tensors, flags, strict=True)]
            grown = any(parameter.grad is not None for parameter in parameters)
            self.accumulates |= grown
            self._watched = grown or any(changed[: len(parameters)])
            for tensor, flag, other in zip(tensors, flags, changed, strict=True):
                if other and tensor.is_leaf:
                    tensor.requires_grad_(flag)
            for tensor, gradient in aside:
                if tensor.grad is not gradient:
                    tensor.grad = gradient
