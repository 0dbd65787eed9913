"""Random numbers that follow the rows when the rows are reversed, so that noise does not hide an order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["RowNoise"]

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
    """Switches dropout off, and reverses what is drawn for a whole batch where the batch is reversed.

    A step that draws noise for each row (a variational autoencoder, a diffusion model) gives each row the noise of its
    place. With the same seed and the batch reversed, the draws are reversed too, and every row meets its own noise.

    Args:
        rows: Number of rows of the batch.
        reverse: Is this the run with the reversed batch?
    """

    def __init__(self, rows: int, *, reverse: bool) -> None:
        super().__init__()
        self._rows = rows
        self._reverse = reverse

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let everything pass but dropout and draws."""
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        drawn = func(*args, **kwargs)
        if self._reverse and isinstance(drawn, Tensor) and drawn.dim() and drawn.shape[0] == self._rows:
            if func in _DRAWS:
                return drawn.flip(0)
            if func in _DRAWS_IN_PLACE:
                return drawn.copy_(drawn.flip(0))
        return drawn
