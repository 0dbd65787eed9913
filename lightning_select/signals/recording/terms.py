"""What one reduction of a training step was made of: the call, and its scalar taken apart into terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_select.types import Bool, Float, Int

__all__ = ["SHARED", "Reduction", "Terms"]

SHARED = frozenset({"weight", "pos_weight", "linear_weight", "linear_bias"})
"""Tensor arguments of losses that every row shares."""

_LINEAR = frozenset({"Tensor.mean", "Tensor.nanmean", "Tensor.sum", "Tensor.nansum", "F.nll_loss"})


@dataclass(eq=False)
class Terms:
    """A scalar taken apart: ``scalar = sum(values * norm)``.

    Attributes:
        values: One term per row, or per token, in float32 at least.
        factor: Factor of each term, broadcastable to ``values``; ``None`` where the scalar is the mean of those that
            count.
        mask: Which terms count, or the targets and the class to ignore; ``None`` means that all count. Values of the
            others are zero.
    """

    values: Float[Tensor, "*shape"]
    factor: Float[Tensor, "*#shape"] | float | None = None
    mask: Bool[Tensor, "*shape"] | tuple[Int[Tensor, "*shape"], int] | None = None

    @property
    def valid(self) -> Bool[Tensor, "*shape"] | None:
        """Which terms count; ``None`` means all."""
        return self.mask[0] != self.mask[1] if isinstance(self.mask, tuple) else self.mask

    @property
    def total(self) -> Float[Tensor, ""]:
        """The scalar."""
        if self.factor is not None:
            return (self.values * self.factor).sum()
        valid = self.valid
        return self.values.mean() if valid is None else self.values.sum() / valid.sum()

    @property
    def norm(self) -> Float[Tensor, "*#shape"] | float:
        """Factor of each term."""
        if self.factor is not None:
            return self.factor
        valid = self.valid
        return 1.0 / self.values.numel() if valid is None else valid.sum().reciprocal()


@dataclass(eq=False)
class Reduction:
    """One recognised call.

    Attributes:
        name: Name of the function, as in torch.
        arguments: What it was called with, by name.
        run: Calls it with (possibly replaced) arguments.
        split: Takes it apart into `Terms`.
        row_axis: Axis of the rows in the arguments that hold them, where it is not the axis of the terms.
        by_arguments: Do all tensors that need a gradient hold rows? Then weighting can act on their gradients.
        halfway: Makes the first half of the computation and returns the other half, bit for bit the same as ``run``.
            The terms of that half need no second softmax.
        fresh: Does nobody else use the arguments that need a gradient?
        summed: Is it a loss of torch.nn.functional that adds its terms up? Its scale is then that of the rows it sees.
    """

    name: str
    arguments: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], Tensor]
    split: Callable[[Mapping[str, Any]], Terms]
    row_axis: int | None = None
    by_arguments: bool = True
    halfway: Callable[[], Reduction] | None = None
    fresh: bool = False
    summed: bool = False

    @property
    def linear(self) -> bool:
        """Is the result linear in what is weighted? The gradient of it then does not depend on that."""
        return not self.by_arguments or (self.name in _LINEAR and not self.fresh)

    def row_inputs(self) -> list[str]:
        """Names of the arguments whose gradients carry the rows."""
        return [
            name
            for name, value in self.arguments.items()
            if isinstance(value, Tensor) and value.requires_grad and name not in SHARED
        ]

    def needs_gradient(self) -> bool:
        """Does any tensor argument take part in a graph?"""
        return any(isinstance(value, Tensor) and value.requires_grad for value in self.arguments.values())

    def terms(self) -> Terms:
        """The terms of the call, detached and in float32 at least."""
        terms = self.split({name: _plain(value) for name, value in self.arguments.items()})
        if terms.values.requires_grad:  # through what is no argument: the parameters of a distance function
            terms.values = terms.values.detach()
        return terms


def _plain(value: Any) -> Any:
    """A tensor cut off from its graph, halves widened to float32; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    plain = value.detach() if value.requires_grad else value
    return plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain
