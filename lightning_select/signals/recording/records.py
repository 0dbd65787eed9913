"""The reductions that a step made, and the gates where weights act on the gradients of their rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lightning_select.signals.layout.rows import Layout, spread
from lightning_select.signals.recording.made import Made
from lightning_select.signals.recording.masks import Cut, find_cut
from lightning_select.signals.recording.terms import Reduction, Terms
from lightning_select.types import Float, Num

__all__ = ["Gate", "Record", "Unreduced", "put_gate", "run_gated"]


class Gate:
    """A gradient hook that multiplies each entry by a scale set later; without a scale it changes nothing."""

    def __init__(self, shape: torch.Size, row_axis: int | None) -> None:
        self.shape = shape
        self.row_axis = row_axis
        self.scale: Tensor | None = None
        self.differentiated = False

    def __call__(self, grad: Tensor) -> Tensor | None:
        """The scaled gradient. A weight of zero silences even a gradient that is not finite."""
        scale = self.scale
        if scale is None:
            self.differentiated |= torch.is_grad_enabled()  # the step takes a gradient with create_graph=True
            return None
        scaled = (grad * scale).masked_fill_(scale == 0, 0.0)
        return scaled if scaled.dtype == grad.dtype else scaled.to(grad.dtype)


def put_gate(value: Tensor, row_axis: int | None = None) -> Gate:
    """Put a gate at ``value``, for all who use it from now on."""
    gate = Gate(value.shape, row_axis)
    value.register_hook(gate)  # type: ignore[no-untyped-call]
    return gate


def run_gated(reduction: Reduction) -> tuple[Tensor, list[Gate]]:
    """Run the reduction with gates at the arguments that hold rows, or at its terms where rows share parameters."""
    if not reduction.by_arguments:
        scalar = reduction.run(reduction.arguments).detach()
        terms = reduction.split(reduction.arguments)
        values, gate = _gate(terms.values, None, False)
        total = (values * terms.norm).sum()
        return scalar + (total - total.detach()), [gate]
    shared = not reduction.fresh
    gated = {name: _gate(reduction.arguments[name], reduction.row_axis, shared) for name in reduction.row_inputs()}
    scalar = reduction.run({**reduction.arguments, **{name: value for name, (value, _) in gated.items()}})
    return scalar, [gate for _, gate in gated.values()]


def _gate(value: Tensor, row_axis: int | None, shared: bool) -> tuple[Tensor, Gate]:
    """Put a gate behind ``value``; where others use it too, behind a view of it that is ours."""
    view = value.view_as(value) if shared else value
    return view, put_gate(view, row_axis)


@dataclass(frozen=True, eq=False)
class Unreduced:
    """A cross entropy that was not reduced: its logits, its targets, the class it ignores, and the layer behind it.

    ``terms`` are its result where that is part of a graph.
    """

    logits: Float[Tensor, "*shape"]
    targets: Num[Tensor, "*rest"]
    ignored: int
    made: Made | None
    terms: Float[Tensor, "*rest"] | None = None


@dataclass(eq=False)
class Record:
    """One reduction that the step made.

    Attributes:
        reduction: The call.
        scalar: Its result.
        edge: Where the result is in the autograd graph, if the caller holds the result itself: it may add to its own
            loss in place, and what it holds is then another place.
        gates: Where weights can act on its gradient.
        made: The linear layer that made its ``input``, where that was asked for and is known.
        returned: What the step was given to go on with, the scalar or a copy of it, where it is part of a graph.
        cuts: What masks let through before it.
        part: What the terms are taken from, where it is not the whole call.
    """

    reduction: Reduction
    scalar: Tensor
    gates: list[Gate] = field(default_factory=list)
    made: Made | None = None
    returned: Tensor | None = None
    cuts: tuple[Cut, ...] = ()
    part: Reduction | None = None
    edge: GradientEdge | None = None
    _terms: Terms | None = None

    @property
    def terms(self) -> Terms:
        """The detached terms, computed when first asked for."""
        if self._terms is None:
            self._terms = (self.part or self.reduction).terms()
        return self._terms

    @property
    def cut(self) -> tuple[Cut | None, bool]:
        """The mask that left just as many entries as there are terms, and whether they are surely its entries."""
        sizes = self.terms.values.shape
        return find_cut(self.cuts, self.reduction.arguments, sizes[0]) if self.cuts and sizes else (None, False)

    def terms_in(self, layout: Layout) -> Terms:
        """The terms where ``layout`` says that the rows are."""
        cut = self.cut[0] if layout.masked else None
        return self.terms if cut is None else cut.restore_terms(self.terms)

    @property
    def source(self) -> Tensor | GradientEdge:
        """What a gradient with respect to the result is asked for by."""
        return self.scalar if self.edge is None else self.edge

    @property
    def connected(self) -> bool:
        """Can a gradient pass through the scalar?"""
        return self.scalar.requires_grad

    @property
    def bent(self) -> bool:
        """Does a gradient that the step took of the result itself pass the gates a second time?

        What is computed from that gradient depends on what the gates stand at, unless the reduction is linear in it.
        """
        part = self.part or self.reduction
        return not part.linear and any(gate.differentiated for gate in self.gates)

    def weigh(self, weights: Float[Tensor, "rows"], layout: Layout) -> None:
        """Set the weights of the rows before the backward pass starts."""
        term_dims = self.terms.values.dim()
        cut = self.cut[0] if layout.masked else None
        for gate in self.gates:
            if cut is not None:
                scale = spread(weights, layout, layout.axis, torch.Size(cut.shape)).broadcast_to(cut.shape)
                gate.scale = cut.take(scale).reshape(-1, *[1] * (len(gate.shape) - 1))
                continue
            axis = layout.axis if gate.row_axis is None else gate.row_axis
            if gate.row_axis is None and layout.axis > 0 and len(gate.shape) == term_dims + 1:
                axis += 1  # the classes of F.cross_entropy stand before the positions
            gate.scale = spread(weights, layout, axis, gate.shape)
