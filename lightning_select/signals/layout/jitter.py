"""A module as it would be a little later in training, for steps that cannot tell their rows apart yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["jittered"]

_SHARE = 0.1
_SEED = 0


@contextmanager
def jittered(module: nn.Module) -> Iterator[None]:
    """Inside, every parameter is off by noise: a head that starts from zero gives all rows the same loss.

    Only what the parameters point to is exchanged, so that a graph that was recorded before stays valid.
    """
    held: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for parameter in module.parameters():
            if not is_lazy(parameter) and parameter.is_floating_point() and parameter.numel():
                held.append((parameter, parameter.data))
                parameter.data = _near(parameter.data)
        yield
    finally:
        for parameter, data in held:
            parameter.data = data


def _near(values: Tensor) -> Tensor:
    draw = torch.Generator(values.device).manual_seed(_SEED)
    noise = torch.randn(values.shape, generator=draw, device=values.device, dtype=torch.float32)
    size = values.float().abs().mean().clamp(min=_SHARE)
    return (values.float() + _SHARE * size * noise).to(values.dtype)
