"""Watch an unmodified training step: which reductions make up its loss, and what feeds them.

`Capture` is a ``TorchFunctionMode``: inside it every torch function passes by once. It notes each reduction to a
scalar (`Record`) and, where asked, the logits and the input of the last linear layer. The step itself computes what it
always computes, bit for bit.

When the step is going to be differentiated, each reduction also gets a gate: an identity in the forward pass whose
backward pass multiplies the gradient of each row by that row's weight. Weights may be set until the backward pass
starts, so one forward pass is enough to measure the losses and to weigh them. For a sum of reductions the gradient is
that of the same step with every reduction ``sum(terms * norm)`` replaced by ``sum(w * terms * norm)``. For any other
smooth combination ``f`` of them it is that to first order: ``df / d reduction`` is taken at the unweighted reductions,
and what combines them (a learnt factor) gets its unweighted gradient. With unit weights it is the original gradient,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from lightning_select.signals.recording.linears import FOLLOWED, LAYERS, LOG_SOFTMAX, LinearLayers
from lightning_select.signals.recording.made import Made, classes_of_log_softmax
from lightning_select.signals.recording.masks import CUTTERS, Cut, Cuts, cuts_by_mask
from lightning_select.signals.recording.records import Record, Unreduced, run_gated
from lightning_select.signals.recording.reductions import REDUCERS, recognise, unreduced
from lightning_select.signals.recording.switches import GradientSwitches
from lightning_select.signals.recording.terms import Reduction
from lightning_select.signals.recording.writes import WRITES, BeforeWrite, written_by
from lightning_select.torch_compat import (
    SET_GRAD_ENABLED,
    asking_frame,
    in_functorch,
    version_of,
    with_weight_of_l1,
)

__all__ = ["Capture"]

_GATHER = frozenset({torch.gather, Tensor.gather})
_DIFFERENTIATORS = frozenset({torch.autograd.grad})


@cache
def _watched(*, reads: bool, writes: bool, linear: bool) -> frozenset[Any]:
    """Functions that mean something to a capture; all others go straight through."""
    seen = LOG_SOFTMAX | _GATHER | _DIFFERENTIATORS | {SET_GRAD_ENABLED}
    functions = REDUCERS | CUTTERS | (seen if reads else frozenset())
    return functions | (WRITES if writes else frozenset()) | (FOLLOWED | LAYERS if linear else frozenset())


class Capture(TorchFunctionMode):
    """Watches what runs inside it.

    Args:
        gated: Put a gate at every reduction, for a step that will be differentiated.
        weighs: Will gates be used? If not, none is put, and the graph of the step stays the module's own.
        connected: Under no_grad, which reductions (in order) a gradient would reach. These are made leaves of a graph
            of scalars, so that `coefficients` works without a graph of the model.
        want_linear: Find the linear layer that made the logits of each loss, and its input.
        want_logits: Look for logits and targets of a classification written by hand; always on without gates.
        before_write: Told about every function that is about to change a tensor in place.
    """

    def __init__(
        self,
        *,
        gated: bool = False,
        weighs: bool = True,
        connected: Sequence[bool] | None = None,
        want_linear: bool = False,
        want_logits: bool = False,
        before_write: BeforeWrite | None = None,
    ) -> None:
        super().__init__()
        self.records: list[Record] = []
        self.log_softmax: tuple[Tensor, Made | None] | None = None
        self.gathered: Tensor | None = None
        self.unreduced: list[Unreduced] = []
        self._gated = gated
        self._weighs = weighs
        self._connected = connected
        self._want_linear = want_linear
        self._before_write = before_write
        self._linears = LinearLayers()
        self._cuts = Cuts()
        self._marks = False
        self._switches = GradientSwitches()
        self._watched = _watched(reads=want_logits or not gated, writes=before_write is not None, linear=want_linear)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See every torch function once; only reductions are treated differently."""
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():  # nothing of ours may be looked at: it could not be guarded
            seen = func in REDUCERS or cuts_by_mask(func, args)
            return self._leave_graph(func, args, kwargs) if seen else func(*args, **kwargs)
        if func not in self._watched and not self._marks and not (kwargs and self._before_write):
            return func(*args, **kwargs)
        if func in REDUCERS:
            return self._reduce(func, args, kwargs)
        if self._before_write is not None:
            for target in written_by(func, args, kwargs):
                self._before_write(func, target)
                self._linears.written(target)
        if func is SET_GRAD_ENABLED:
            self._switches.note(args[0], asking_frame())
        if func in _DIFFERENTIATORS and self._marks and not torch.is_grad_enabled():
            raise RuntimeError("the graph of marked scalars has no gradient to give to the step")  # it gets a whole one
        if func in LOG_SOFTMAX:
            self._see_log_softmax(args, kwargs)
        elif func in _GATHER and len(args) > 2:
            self.gathered = args[2].movedim(args[1], -1) if isinstance(args[1], int) else None
        before = self._cuts.noted
        output = (self._cut if func in CUTTERS else self._call)(func, args, kwargs)
        if self._want_linear and func in LAYERS:
            self._linears.note(func, args, kwargs, output)
        elif self._want_linear and func in FOLLOWED:
            cut = None if self._cuts.noted is before else self._cuts.noted[-1]
            self._linears.follow(func, args, kwargs, output, cut)
        return output

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """What masks let through up to now."""
        return self._cuts.noted

    def coefficients(self, loss: Tensor) -> list[Tensor | float | None]:
        """``d loss / d scalar`` of every record; ``None`` where the loss does not depend on it."""
        scalars: list[Any] = [record.source for record in self.records if record.connected]
        if not scalars or not loss.requires_grad:
            return [None] * len(self.records)
        if len(scalars) == 1 and version_of(loss) == 0 and any(record.returned is loss for record in self.records):
            return [1.0 if record.connected else None for record in self.records]  # the loss is the reduction itself
        start = torch.ones_like(loss)
        try:
            found = iter(torch.autograd.grad(loss, scalars, start, retain_graph=True, allow_unused=True))
        except RuntimeError as error:
            if "donated" not in str(error):
                raise
            # A graph that was compiled before we watched gives its buffers away and cannot be asked twice.
            return [None] * len(self.records)
        return [next(found) if record.connected else None for record in self.records]

    def _behind(self, reduction: Reduction) -> Made | None:
        return self._linears.of_loss(reduction.name, reduction.arguments) if self._want_linear else None

    def _see_log_softmax(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        logits = args[0] if args else kwargs["input"]
        dim = classes_of_log_softmax(logits, args[1:], kwargs)
        if dim is not None:
            made = self._linears.behind(logits, "F.cross_entropy", dim) if self._want_linear else None
            self.log_softmax = logits.detach().movedim(dim, -1), made

    def _grows(self, values: Iterable[Any]) -> bool:
        """Does the graph of scalars go on with these, as the graph of the step would?"""
        off = not self._marks or torch.is_grad_enabled() or torch.is_inference_mode_enabled()
        return not off and self._switches.on and _descends_from_mark(values)

    def _call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if self._grows(args):
            with torch.enable_grad():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    # A compiled step breaks its graph here, so that reductions and masks stay visible; the rest of it remains compiled.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _leave_graph(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return self._reduce(func, args, kwargs) if func in REDUCERS else self._cut(func, args, kwargs)

    def _cut(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        output = self._call(func, args, kwargs)
        self._cuts.note(func, args, kwargs, output)
        return output

    def _reduce(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if func is F.l1_loss:
            kwargs = with_weight_of_l1(kwargs)
        reduction = None if in_functorch() else recognise(func, args, kwargs)
        if reduction is None:
            if func is F.cross_entropy and not self._gated:
                logits, targets, ignored = unreduced(args, kwargs)
                made = self._linears.behind(logits, "F.cross_entropy") if self._want_linear else None
                terms = self._call(func, args, kwargs)
                graph = terms if terms.requires_grad else None
                self.unreduced.append(Unreduced(logits.detach(), targets, ignored, made, graph))
                return terms
            return self._call(func, args, kwargs)
        if torch.is_grad_enabled() and reduction.needs_gradient():
            return self._weighable(reduction) if self._gated else self._follow(reduction)
        return self._observe(reduction)

    def _weighable(self, reduction: Reduction) -> Tensor:
        part = reduction if reduction.halfway is None else reduction.halfway()
        scalar, gates = run_gated(part) if self._weighs else (part.run(part.arguments), [])
        edge = get_gradient_edge(scalar) if scalar.requires_grad else None
        self.records.append(Record(reduction, scalar, gates, None, scalar, self._cuts.noted, part, edge))
        return scalar

    def _follow(self, reduction: Reduction) -> Tensor:
        scalar = reduction.run(reduction.arguments)
        copy = scalar.clone()  # the caller may add to its own loss in place
        self.records.append(Record(reduction, scalar, [], self._behind(reduction), copy, self._cuts.noted))
        return copy

    def _observe(self, reduction: Reduction) -> Tensor:
        terms = None
        if reduction.name.startswith("F.") and not torch.is_grad_enabled():
            part = None if reduction.halfway is None else reduction.halfway()
            terms = (part or reduction).terms()
            scalar = terms.total if part is None else part.run(part.arguments)
        else:
            marks = self._grows(reduction.arguments.values())
            with torch.set_grad_enabled(marks or torch.is_grad_enabled()):
                scalar = reduction.run(reduction.arguments)
        position = len(self.records)
        marked = self._connected is not None and position < len(self._connected) and self._connected[position]
        if marked and not scalar.requires_grad:
            self._marks = True
            scalar = scalar.detach().requires_grad_()
        record = Record(reduction, scalar, made=self._behind(reduction), cuts=self._cuts.noted, _terms=terms)
        self.records.append(record)
        if not scalar.requires_grad:
            return scalar.clone()  # a torch.autograd.Function makes what its forward returns part of the graph
        with torch.enable_grad():
            record.returned = scalar.clone()
        return record.returned


def _descends_from_mark(values: Iterable[Any]) -> bool:
    """Under no_grad nothing but parameters requires a gradient, except what was computed from a marked scalar."""
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad and not isinstance(value, nn.Parameter):
                return True
        elif isinstance(value, (list, tuple)) and _descends_from_mark(value):
            return True
    return False
