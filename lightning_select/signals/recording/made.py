"""What made the logits of a loss: a layer before it, or the loss itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select.signals.head.terms import owner_of
from lightning_select.types import Float

__all__ = ["FUSED", "Made", "classes_of_log_softmax", "layer_of", "logits_of", "made_by_loss", "owners"]

FUSED = "F.linear_cross_entropy"
"""The loss that makes its logits itself."""


@dataclass(frozen=True, eq=False)
class Made:
    """The call of a layer that made some logits.

    Attributes:
        hidden: What it was given, for each place of the logits with their classes last; ``None`` for a convolution.
        biased: Does it have a bias?
        weights: Its parameters, by their ids.
    """

    hidden: Float[Tensor, "*shape features"] | None
    biased: bool
    weights: frozenset[int]


def layer_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Input, weight and bias that a linear layer or a convolution was called with."""
    names = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
    return names["input"], names["weight"], names.get("bias")


def classes_of_log_softmax(given: Tensor, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """The axis of the classes, which torch chooses where none is given; ``None`` where it goes by a name."""
    dim = kwargs.get("dim", rest[0] if rest else None)
    if dim is None:
        return 0 if given.dim() in (0, 1, 3) else 1
    return dim if isinstance(dim, int) else None


def logits_of(arguments: Mapping[str, Any]) -> Tensor:
    """The logits that a loss was given, or makes itself."""
    if "linear_weight" not in arguments:
        return arguments["input"].detach()
    with torch.no_grad():
        return F.linear(arguments["input"], arguments["linear_weight"], arguments.get("linear_bias"))


def made_by_loss(arguments: Mapping[str, Any]) -> Made:
    """The layer that `FUSED` is itself, by the arguments it was given."""
    bias = arguments.get("linear_bias")
    return Made(arguments["input"].detach(), bias is not None, owners(arguments["linear_weight"], bias))


def owners(weight: Tensor, bias: Tensor | None) -> frozenset[int]:
    """The parameters of a layer, by their ids."""
    return frozenset(id(part) for value in (weight, bias) if value is not None for part in (value, owner_of(value)))
