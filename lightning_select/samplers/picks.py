"""What samplers share about draws: picks among candidates, draws in parts, and what weights are worth.

Nothing here waits for a device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_select.samplers.race import race, repeated
from lightning_select.types import Float, Int

__all__ = ["best", "effective_share", "in_parts", "in_proportion", "places", "some"]


def some(rows: int, count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """``count`` different rows of the dataset, all equally likely, from about ``sqrt(rows * count)`` random numbers."""
    device = generator.device
    block = max(1, math.isqrt(rows // count))
    starts = torch.arange(0, rows, block, device=device)
    inside = torch.arange(block, device=device)
    sizes = (rows - starts).clamp_max(block).double()
    return race(lambda blocks: (blocks.unsqueeze(1) * block + inside < rows).double(), sizes, count, generator)[0]


def best(scores: Float[Tensor, "rows"], count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """Places of the ``count`` best scores; which of equal ones, and the order, is random."""
    last = scores.topk(count).values[-1]
    noise = torch.rand(scores.shape, generator=generator, dtype=torch.float64, device=scores.device)
    return torch.where(scores > last, noise + 2, torch.where(scores == last, noise, -1.0)).topk(count).indices


def in_proportion(scores: Float[Tensor, "rows"], count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """Places drawn one after the other in proportion to the scores of those left; scores of zero come last."""
    noise = torch.rand(scores.shape, generator=generator, dtype=torch.float64, device=scores.device)
    waits = noise.clamp_min(torch.finfo(torch.float64).tiny).log().neg()
    return (waits / scores.clamp_min(1e-290)).topk(count, largest=False).indices


def places(weights: Float[Tensor, "few"], count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """Places drawn independently, and so more than once, in proportion to a few weights."""
    return repeated(_alone, weights, count, generator)


def in_parts(count: int, rows: int) -> list[int]:
    """``count`` in parts of at most ``rows``: in each part every row can be another one."""
    return [min(rows, count - done) for done in range(0, count, rows)]


def effective_share(weights: Float[Tensor, "rows"]) -> Float[Tensor, ""]:
    """Share of the rows that equal weights would have to be spread over to vary as little as draws by these."""
    return weights.sum() ** 2 / (weights**2).sum() / len(weights)


def _alone(blocks: Int[Tensor, "k"]) -> Float[Tensor, "k 1"]:
    """Each place is a block of one."""
    return torch.ones(len(blocks), 1, dtype=torch.float64, device=blocks.device)
