"""Random numbers that follow the rows when the rows change places, so that noise does not hide an order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_select.torch_compat import with_weight_of_l1
from lightning_select.types import Int

__all__ = ["RowNoise", "skip_draws"]

_DROPOUTS = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout}
)
_DRAWS = frozenset(
    {torch.rand, torch.randn, torch.randint, torch.rand_like, torch.randn_like, torch.randint_like, torch.normal}
    | {torch.bernoulli, torch.poisson, torch.multinomial, Tensor.bernoulli, Tensor.multinomial}
)
_DRAWS_IN_PLACE = frozenset(
    {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.random_, Tensor.exponential_, Tensor.geometric_}
    | {Tensor.log_normal_, Tensor.cauchy_}
)


class RowNoise(TorchFunctionMode):
    """Switches dropout off, and reorders what is drawn for a whole batch as the batch is reordered.

    A step that draws noise for each row (a variational autoencoder, a diffusion model) gives each row the noise of its
    place. With the same seed and the rows in another order, the draws are reordered too, and every row meets its own
    noise. A permutation is left as it is: a step that shuffles its rows is to be found out.

    Args:
        rows: Number of rows of the batch.
        order: The order that the rows of the batch were brought into; ``None``: they are where they were.

    Attributes:
        shuffles: Was a permutation drawn?
    """

    def __init__(self, rows: int, order: Int[Tensor, "rows"] | None = None) -> None:
        super().__init__()
        self.shuffles = False
        self._rows = rows
        self._order = order

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let everything pass but dropout and draws."""
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        self.shuffles |= func is torch.randperm
        drawn = func(*args, **(with_weight_of_l1(kwargs) if func is F.l1_loss else kwargs))
        if self._order is not None and isinstance(drawn, Tensor) and drawn.dim() and drawn.shape[0] == self._rows:
            if func in _DRAWS:
                return drawn.index_select(0, self._order.to(drawn.device))
            if func in _DRAWS_IN_PLACE:
                return drawn.copy_(drawn.index_select(0, self._order.to(drawn.device)))
        return drawn


def skip_draws(device: torch.device, count: int) -> None:
    """Move every random generator on by ``count`` draws, so that a step meets other numbers than before."""
    for place in {torch.device("cpu"), device}:
        torch.rand(count, device=place)
    np.random.random(count)  # noqa: NPY002 (user code may draw from it)
    for _ in range(count):
        random.random()
