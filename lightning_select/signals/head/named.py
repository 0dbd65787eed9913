"""The parameters of the submodule that the user named as the output head."""

from __future__ import annotations

from torch import nn

from lightning_select.errors import ArgumentError

__all__ = ["named_weights"]


def named_weights(module: nn.Module, name: str) -> tuple[frozenset[int], int]:
    """The parameters of the submodule ``name``, and the number of its outputs.

    Raises:
        ArgumentError: There is no such submodule, or it has no weight.
    """
    named = dict(module.named_modules()).get(name) if name else None
    matrices = [] if named is None else [weight for weight in named.parameters() if weight.dim() >= 2]
    if named is None or not matrices:
        linear = [key for key, part in module.named_modules() if isinstance(part, nn.Linear)]
        raise ArgumentError(
            f"BatchSelection.head must name a submodule of {type(module).__name__} that has a weight, got {name!r}. "
            f"Its last linear layers are {', '.join(linear[-3:]) or 'none'}."
        )
    largest = max(matrices, key=lambda weight: weight.numel())
    return frozenset(map(id, named.parameters())), largest.shape[0]
