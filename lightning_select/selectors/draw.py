"""Random choices in proportion to given chances, made on the device of the chances, without waiting for it.

Distinct rows are the largest values of ``log chance + Gumbel noise``. That is drawing one row after the other, each
time in proportion to the chances of those that are left. Taking the smallest values of ``noise - log chance`` is
another thing, which hardly ever draws an unlikely row: Gumbel noise is not symmetric.

References:
    Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for Sampling Sequences
    Without Replacement", ICML 2019, arXiv:1903.06059.

Deviations:
    None. Noise is float64, which the device must have, and chances are whole multiples of ``2^-52``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_select.types import Float, Int

__all__ = ["draw_distinct", "draw_repeated"]


def draw_distinct(
    log_chances: Float[Tensor, "*draws rows"], count: int, generator: torch.Generator
) -> Int[Tensor, "*draws count"]:
    """``count`` different rows in proportion to ``exp(log_chances)``, in the order of the batch.

    A row of minus infinity is taken only when no other is left, the earlier one first.
    """
    uniform = torch.rand(log_chances.shape, generator=generator, dtype=torch.float64, device=log_chances.device).clamp(
        min=torch.finfo(torch.float64).tiny
    )
    keys = log_chances.double() - (-uniform.log()).log()
    order = keys.argsort(dim=-1, descending=True, stable=True)
    return order[..., :count].sort(dim=-1).values


def draw_repeated(chances: Float[Tensor, "rows"], count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """``count`` independent rows in proportion to ``chances``, in the order of the batch; a row may come twice.

    A row of chance zero never comes. At least one chance must be positive; none may be negative or infinite.
    """
    # Whole numbers: on CUDA, sums of floats are refused by a Trainer(deterministic=True).
    shares = (chances.double() / chances.double().sum() * 2**52).long()
    ends = shares.cumsum(dim=0)
    # Random numbers below 1 stay below the total when multiplied by it, so a point is never beyond the last end.
    points = (torch.rand(count, generator=generator, dtype=torch.float64, device=chances.device) * ends[-1]).long()
    return torch.searchsorted(ends, points, right=True).sort().values
