"""Run a training step up to the loss that sees the logits, without computing logits or loss.

`HeadCapture` watches like `Capture`. The output of every linear layer that has as many outputs as there are classes is
a `LazyLogits`; the first classification loss that gets one ends the step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_select.signals.head.lazy_logits import LazyLogits, UnfollowedError
from lightning_select.signals.head.terms import Linear, Mapped, Term, owner_of
from lightning_select.signals.recording.capture import Capture
from lightning_select.signals.recording.linears import LOG_SOFTMAX
from lightning_select.signals.recording.made import layer_of
from lightning_select.signals.recording.records import Record
from lightning_select.signals.recording.reductions import recognise
from lightning_select.signals.recording.terms import Reduction
from lightning_select.signals.traceless.snapshot import SET_DATA
from lightning_select.torch_compat import base_of, in_functorch, version_of

__all__ = ["HeadCapture", "HeadReached", "condition", "weights_of"]

_PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm})
_FUSED = getattr(F, "linear_cross_entropy", None)  # newer than the oldest torch that we support
_LOSSES = frozenset({"F.cross_entropy", "F.linear_cross_entropy"})


class HeadReached(BaseException):
    """The loss was called: the pass is over.

    Attributes:
        term: What its logits are made of, axes as the loss saw them.
        axis: The axis of the classes.
        classes: Number of classes.
        reduction: The call.
    """

    def __init__(self, term: Term, axis: int, classes: int, reduction: Reduction) -> None:
        super().__init__()
        self.term, self.axis, self.classes, self.reduction = term, axis, classes, reduction


class HeadCapture(Capture):
    """Watches a step until its loss.

    Args:
        classes: Numbers of classes.
        weights: Parameters of the output head where the user named it; else any linear layer with so many outputs.
        passed_over: Calls of such layers, by their number, whose output was found not to be logits.
        connected: See `Capture`.
        before_write: See `Capture`.
        beyond: Weights whose losses are passed by, to see whether there are others.
        intact: How weights were before the pass, by their ids (see `condition`). What a pass writes is undone after it,
            and terms are made use of even later.
    """

    def __init__(
        self,
        classes: Collection[int],
        *,
        weights: Collection[int] | None = None,
        passed_over: Collection[int] = (),
        connected: Sequence[bool] | None = None,
        before_write: Callable[[Callable[..., Any], Any], None] | None = None,
        beyond: frozenset[int] = frozenset(),
        intact: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(connected=connected, before_write=self._before)
        self._classes = classes
        self._weights = weights
        self._passed_over = passed_over
        self._calls = -1
        self._keep = before_write
        self._intact = intact or {}
        self._relied_on: set[int] = set()
        self._layers: list[Tensor] = []
        self.passed: set[tuple[Any, ...]] = set()
        self._made = 0
        self._beyond = beyond

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See every torch function once."""
        kwargs = kwargs or {}
        if (func == SET_DATA or func in LOG_SOFTMAX) and args and isinstance(args[0], LazyLogits):
            raise UnfollowedError(getattr(func, "__name__", "an assignment to their data"))
        if func is F.linear or func in _PRODUCTS:
            given, weight, bias = _layer(func, args, kwargs)
            if self._is_head(given, weight, bias):
                return self._stand_in(given, weight, bias)
        return super().__torch_function__(func, types, args, kwargs)

    def _is_head(self, given: Any, weight: Any, bias: Any) -> bool:
        plain = all(type(value) in (Tensor, nn.Parameter) for value in (given, weight))
        if not plain or weight.dim() != 2 or weight.shape[0] not in self._classes or not given.is_floating_point():
            return False
        if self._weights is not None:
            return self._is_named(weight, bias)
        self._calls += 1
        return self._calls not in self._passed_over

    def _is_named(self, weight: Tensor, bias: Tensor | None) -> bool:
        return self._weights is not None and any(id(part) in self._weights for part in (weight, base_of(weight), bias))

    def _before(self, func: Callable[..., Any], target: Any) -> None:
        """Someone is about to write: terms are made use of after the pass, when such writes are undone."""
        flag = func is Tensor.requires_grad_  # which changes no number
        plain = isinstance(target, Tensor) and not isinstance(target, LazyLogits) and target.layout is torch.strided
        if plain and not flag and target.untyped_storage().data_ptr() in self._relied_on:
            raise UnfollowedError("a write to what the output head is made of")
        if self._keep is not None:
            self._keep(func, target)

    def _stand_in(self, given: Tensor, weight: Tensor, bias: Tensor | None) -> LazyLogits:
        weights = [part for part in (weight, bias) if part is not None]
        self._layers += map(owner_of, weights)
        self._check_layers()
        self._relied_on.update(part.untyped_storage().data_ptr() for part in (given, *weights))
        kind = given.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else given.dtype
        made = LazyLogits(
            Linear.of(given, weight, bias), (*given.shape[:-1], weight.shape[0]), given.dim() - 1, dtype, given.device
        )
        self._made += 1
        made.origin = (self._made,)
        return made

    def _check_layers(self) -> None:
        for weight in self._layers:
            if self._intact.get(id(weight), condition(weight)) != condition(weight):
                raise UnfollowedError("a write to the weight of the output head")

    def _reduce(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not any(isinstance(value, LazyLogits) for value in (*args, *kwargs.values())):
            reduction = recognise(func, args, kwargs) if func is _FUSED and not in_functorch() else None
            if reduction is not None:
                self._end_at_weight(reduction)
            return super()._reduce(func, args, dict(kwargs))
        reduction = recognise(func, args, kwargs)
        logits = None if reduction is None else reduction.arguments.get("input")
        if reduction is None or reduction.name not in _LOSSES or not isinstance(logits, LazyLogits):
            raise UnfollowedError(getattr(func, "__name__", str(func)))
        target = reduction.arguments["target"]
        expected = logits.shape[: logits.axis] + logits.shape[logits.axis + 1 :]
        if target.is_floating_point() or target.shape != expected or logits.axis != min(1, logits.dim() - 1):
            raise UnfollowedError("a loss of other than class indices")
        only_logged = self._only_logged()
        if only_logged or (self._beyond and not self._beyond - weights_of(logits.term)):
            if not only_logged:
                self.passed.add(logits.origin)
            self.records.append(Record(reduction, torch.zeros((), device=logits.device)))
            return self.records[-1].scalar
        self._check_layers()
        raise HeadReached(logits.term, logits.axis, logits.shape[logits.axis], reduction)

    def _end_at_weight(self, reduction: Reduction) -> None:
        """End at a loss that multiplies by the head's weight itself, unless it is another head or only logged."""
        arguments = reduction.arguments
        hidden, weight, bias = (arguments.get(name) for name in ("input", "linear_weight", "linear_bias"))
        if hidden is None or weight is None or weight.dim() != 2 or self._only_logged():
            return
        if self._weights is not None and not self._is_named(weight, bias):
            return
        term = Linear.of(hidden, weight, bias)
        if self._beyond and not self._beyond - weights_of(term):
            self.passed.add(("input", hidden.data_ptr(), hidden.numel()))
            return
        raise HeadReached(term, hidden.dim() - 1, weight.shape[0], reduction)

    def _only_logged(self) -> bool:
        """Does the loss that comes next reach no gradient?"""
        number, known = len(self.records), self._connected or ()
        return number < len(known) and not known[number]


def condition(weight: Tensor) -> tuple[int, int]:
    """Changes with every write to a weight, except those that go past torch."""
    return 0 if weight.is_inference() else version_of(weight), 0 if is_lazy(weight) else weight.data_ptr()


def weights_of(term: Any) -> frozenset[int]:
    """The parameters that logits are made of, by their ids; what is made for the moment has no lasting one."""
    if isinstance(term, Linear):
        owners = (owner_of(part.weight) for part in term.parts)
        return frozenset(id(owner) for owner in owners if isinstance(owner, nn.Parameter))
    return frozenset().union(*map(weights_of, term.args)) if isinstance(term, Mapped) else frozenset()


def _layer(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Input, weight (classes first) and bias of a linear layer, or of a product with a transposed weight."""
    if func is F.linear:
        return layer_of(args, kwargs)
    other = args[1] if len(args) > 1 else None
    matrix = isinstance(other, Tensor) and not isinstance(other, LazyLogits) and other.dim() == 2
    return (args[0], other.t(), None) if matrix and isinstance(other, Tensor) else (None, None, None)
