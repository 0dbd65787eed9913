"""The only file that touches private names of torch, as `compat` does those of Lightning.

One setting of torch's compiler is in `compat`, where it depends on a private name of Lightning's.
Every name here has a test that says what to do when it moves.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from types import FrameType, FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "MODULE_CHILDREN",
    "MODULE_HOOKS",
    "MODULE_PARAMETERS",
    "MODULE_TABLES",
    "NO_GRAD_CODE",
    "NO_TORCH_FUNCTION",
    "PACK_PADDED",
    "SET_GRAD_ENABLED",
    "SET_GRAD_INIT",
    "STANDARD_GAMMA",
    "TorchDispatchMode",
    "asking_frame",
    "base_of",
    "beneath_functorch",
    "hooks_of",
    "in_functorch",
    "inner_schedulers",
    "is_compiled_function",
    "is_compiled_part",
    "is_compiler_error",
    "output_size",
    "overload_name",
    "schema_of",
    "scripted_values",
    "storage_id",
    "unwrapped",
    "version_of",
    "with_weight_of_l1",
    "wrapper_subclass",
]

STANDARD_GAMMA = torch._standard_gamma
"""Draws from Gamma(concentration, 1) by a generator; what `torch.distributions` draws from is always the global one."""

PACK_PADDED = torch._VF._pack_padded_sequence
"""What ``pack_padded_sequence`` calls in the end: (padded, lengths, batch_first) to (data, batch sizes)."""

MODULE_PARAMETERS, MODULE_CHILDREN = "_parameters", "_modules"
MODULE_TABLES = (MODULE_PARAMETERS, "_buffers", MODULE_CHILDREN)
"""Where a module keeps its parameters, buffers and children, in its ``__dict__``."""

MODULE_HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs"),
    *("_forward_hooks_always_called", "_backward_pre_hooks", "_backward_hooks"),
)
"""Where a module keeps the hooks of its passes."""

NO_TORCH_FUNCTION: Any = torch._C._disabled_torch_function_impl
"""The ``__torch_function__`` of a subclass whose operations are seen by ``__torch_dispatch__`` alone."""

SET_GRAD_ENABLED = torch._C._set_grad_enabled
"""What ``no_grad``, ``enable_grad`` and ``set_grad_enabled`` call in the end; a torch function mode is shown it."""

SET_GRAD_INIT = torch.set_grad_enabled.__init__.__code__
"""The code that makes a ``set_grad_enabled``, which sets the mode at once."""

NO_GRAD_CODE = {
    getattr(kind, name).__code__: name == "__enter__"
    for kind in (torch.no_grad, torch.enable_grad)
    for name in ("__enter__", "__exit__")
}
"""The code that begins a block with or without gradients (true), and the code that ends one."""

_L1_CODE = getattr(F.l1_loss, "__code__", None)

_SCRIPTED = frozenset({"int", "float", "bool", "str", "Tensor", "Optional[int]", "Optional[float]", "Optional[bool]"})

_COMPILER_ERROR = ("torch._dynamo.exc", "TorchDynamoException")


def asking_frame() -> FrameType | None:
    """Who called the torch function that a mode is shown; to be asked in the mode's ``__torch_function__``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__torch_function__":
        frame = frame.f_back
    return frame


def with_weight_of_l1(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What ``F.l1_loss`` was called with, asked inside the function mode that is shown the call.

    Torch shows a mode all its arguments but ``weight``, which is then to be found in the frame of the call alone. What
    is compiled has no such frame.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _L1_CODE:
        frame = frame.f_back
    weight = None if frame is None else frame.f_locals["weight"]
    return kwargs if weight is None else {**kwargs, "weight": weight}


def wrapper_subclass(kind: type[Tensor], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
    """A tensor of a subclass that has a shape and no memory."""
    return torch.Tensor._make_wrapper_subclass(kind, shape, dtype=dtype, device=device)


def in_functorch() -> bool:
    """Are we inside torch.func.vmap or grad, where tensors stand for many tensors?"""
    return torch._C._functorch.peek_interpreter_stack() is not None


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor in memory that the wrap of torch.func.vmap or grad stands for; any other as it is."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def beneath_functorch() -> Any:
    """A context in which torch.func.vmap and grad leave operations on unwrapped tensors alone."""
    return torch._C._DisableFuncTorch()


def output_size(node: Any) -> int:
    """How many numbers the operation behind a node of the autograd graph gave; 0 where nobody knows."""
    known = getattr(node, "_input_metadata", None)
    return math.prod(known[0].shape) if known else 0


def scripted_values(module: torch.jit.ScriptModule) -> dict[str, Any]:
    """Numbers, flags, strings and tensors that a scripted or traced module keeps out of its ``__dict__``."""
    known = getattr(module, "_concrete_type", None)  # a frozen module has none, and no attributes either
    kinds = {} if known is None else known.get_attributes()
    return {name: getattr(module, name) for name, (kind, _) in kinds.items() if str(kind) in _SCRIPTED}


def version_of(tensor: Tensor) -> int:
    """Goes up with every write to the tensor or a view of it, except those that go past autograd."""
    return tensor._version


def base_of(tensor: Tensor) -> Tensor | None:
    """The tensor that this one is a view of, ``None`` where it is none."""
    return tensor._base


def storage_id(tensor: Tensor) -> int:
    """The same for all tensors that share memory."""
    return tensor.untyped_storage()._cdata


def hooks_of(weights: Iterable[Tensor]) -> list[dict[Any, Any] | None]:
    """Two tables for each weight: hooks on its gradient, and after that was added to; ``None`` for no table."""
    return [table for weight in weights for table in (weight._backward_hooks, weight._post_accumulate_grad_hooks)]


def is_compiled_part(module: nn.Module) -> bool:
    """Was this very module compiled, by ``module.compile()`` or ``torch.compile(module)``?"""
    return getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule"


def is_compiled_function(value: Any) -> bool:
    """Is it what ``torch.compile`` makes of a function?"""
    return isinstance(value, FunctionType) and "_torchdynamo_orig_callable" in vars(value)


def is_compiler_error(error: BaseException) -> bool:
    """Was it the compiler that failed, which may not break its graph (``fullgraph=True``), for one?"""
    return any((kind.__module__, kind.__name__) == _COMPILER_ERROR for kind in type(error).__mro__)


def inner_schedulers(scheduler: Any) -> list[Any]:
    """What a scheduler that chains others consists of."""
    return list(vars(scheduler).get("_schedulers", ()))


def schema_of(operation: Any) -> Any:
    """Arguments of an operation that a dispatch mode is shown, and which of them it writes to."""
    return operation._schema


def overload_name(operation: Any) -> str:
    """Which of the operations of one name this is."""
    return str(operation._overloadname)
