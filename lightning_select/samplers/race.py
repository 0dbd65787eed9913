"""Draws in proportion to weights that lie in blocks: first the block, then the row, with no loop and no wait.

With replacement, a block is drawn in proportion to its sum and a row of it in proportion to its weight. Both draws
point into sums of whole numbers, so rounding never hits a weight of zero and never steps past the end.

Without replacement, every row has the key ``Exp(1) / weight``, and the smallest keys win: the order of the keys is
that of drawing one row after the other from those that are left. The keys of most rows are never made. The smallest
key of a block is ``Exp(1) / sum of the block``, and the ``count`` smallest keys lie in the ``count`` blocks where that
is smallest. Inside such a block a second race says which row has the smallest key and, exponential times having no
memory, how far behind it every other row is.

References:
    Pavlos S. Efraimidis and Paul G. Spirakis, "Weighted random sampling with a reservoir", Information Processing
    Letters 97(5), 2006: the keys (there ``u ** (1 / weight)``, whose order is the same).
    C. K. Wong and M. C. Easton, "An efficient method for weighted sampling without replacement", SIAM Journal on
    Computing 9(1), 1980: sums of groups, of which a draw reads few.

Deviations:
    Two levels in place of a tree: few wide operations, which a GPU likes and a CPU does not mind. With replacement,
    chances are multiples of ``2^-52`` within their level: a row below that share of its block is never drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_select.types import Float, Int

__all__ = ["race", "repeated"]

SHARES = 2**52
PART = 8192
"""Draws whose blocks are held at once, so that memory does not grow with the count."""

Open = Callable[[Tensor], Tensor]
"""From the numbers of blocks to the weights in them, one line per block."""


def repeated(
    opened: Open, sums: Float[Tensor, "blocks"], count: int, generator: torch.Generator
) -> Int[Tensor, "count"]:
    """``count`` independent rows in proportion to their weights; ``sums``, float64, are those of the blocks.

    At least one weight must be positive; none may be negative or infinite.
    """
    uniform = torch.rand(2, count, generator=generator, dtype=torch.float64, device=sums.device)
    # Whole numbers: on CUDA, running sums of floats are refused by a Trainer(deterministic=True).
    ends = (sums * (SHARES / sums.sum())).long().cumsum(0)
    blocks = torch.searchsorted(ends, _points(uniform[0], ends[-1]), right=True)
    parts = zip(torch.split(blocks, PART), torch.split(uniform[1], PART), strict=True)
    return torch.cat([_row_of_each(opened, sums, *part) for part in parts])


def _row_of_each(opened: Open, sums: Tensor, blocks: Tensor, uniform: Tensor) -> Tensor:
    """One row of each of ``blocks``."""
    scale = (SHARES / sums.index_select(0, blocks)).unsqueeze(1)
    ends = (opened(blocks) * scale).long().cumsum(1)
    points = _points(uniform, ends[:, -1]).unsqueeze(1)
    return blocks * ends.shape[1] + torch.searchsorted(ends, points, right=True).squeeze(1)


def _points(uniform: Tensor, end: Tensor) -> Tensor:
    """Whole numbers in [0, end): ``uniform`` is a multiple of 2^-53 below 1, and ``end`` about 2^52 at most."""
    return (uniform * end).long()


def race(
    opened: Open, sums: Float[Tensor, "blocks"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, "count"], Float[Tensor, "count"]]:
    """``count`` different rows in the order in which they are drawn, and their keys; a row of weight zero has key inf.

    ``count`` is at most the number of rows in the blocks.
    """
    first, blocks = (_exponential(sums.shape, generator, sums) / sums).topk(min(count, len(sums)), largest=False)
    candidates = opened(blocks)
    block = candidates.shape[1]
    behind = _exponential(candidates.shape, generator, sums) / candidates
    behind -= behind.amin(1, keepdim=True)
    # In a block without weight all are at infinity, and so is their distance to the first.
    keys = (first.unsqueeze(1) + behind).masked_fill(candidates <= 0, torch.inf)
    drawn, place = keys.flatten().topk(count, largest=False)
    return blocks.index_select(0, place // block) * block + place % block, drawn


def _exponential(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    """Float64 noise that is positive and finite, so that a weight of zero makes infinity, not NaN."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=like.device)
    return uniform.clamp_(min=torch.finfo(torch.float64).tiny).log_().neg_()
