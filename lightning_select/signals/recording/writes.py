"""Watch for functions that change a tensor in place, just before they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_select.torch_compat import with_weight_of_l1

__all__ = ["WRITES", "BeforeWrite", "Writes", "written_by"]

BeforeWrite = Callable[[Callable[..., Any], Any], None]
"""Is told the function, and what it is about to change."""

WRITES = frozenset(
    {getattr(owner, name) for owner in (Tensor, torch) for name in dir(owner) if name.endswith("_") and name[-2] != "_"}
    | {getattr(Tensor, name) for name in dir(Tensor) if name.startswith("__i") and name.endswith("__")}
    | {Tensor.__setitem__, Tensor.data.__set__}  # type: ignore[attr-defined]
) - {Tensor.__init__, Tensor.__init_subclass__, Tensor.__int__, Tensor.__invert__, Tensor.__index__, Tensor.__iter__}
"""Functions that change their first argument."""


class Writes(TorchFunctionMode):
    """Announces writes and looks at nothing else, so that what is compiled in one piece stays in one piece.

    Args:
        before_write: Told about every function that is about to change a tensor in place.
    """

    def __init__(self, before_write: BeforeWrite) -> None:
        super().__init__()
        self._before_write = before_write

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Announce what is written to; everything runs as it is."""
        kwargs = kwargs or {}
        if not torch.compiler.is_compiling():
            for target in written_by(func, args, kwargs):
                self._before_write(func, target)
            if func is F.l1_loss:
                kwargs = with_weight_of_l1(kwargs)
        return func(*args, **kwargs)


def written_by(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[Any]:
    """The tensors that a call is about to change."""
    if func in WRITES or kwargs.get("inplace"):
        return args[0] if args and isinstance(args[0], (list, tuple)) else args[:1]
    return () if kwargs.get("out") is None else (kwargs["out"],)
