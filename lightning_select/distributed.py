"""What the ranks of a distributed run tell each other: values in fixed-size tensors, ids as int64 and apart."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_select.types import Float, Int, Shaped

__all__ = ["gather_ids", "gather_objects", "gather_rows", "largest", "rank", "with_nan", "world_size"]


def world_size() -> int:
    """Number of processes that train together; 1 outside a distributed run."""
    return dist.get_world_size() if _running() else 1


def rank() -> int:
    """Global rank of this process; 0 outside a distributed run."""
    return dist.get_rank() if _running() else 0


def largest(value: int, device: torch.device) -> int:
    """The largest ``value`` of any rank. Waits for the device; call it once, not in every step."""
    if world_size() == 1:
        return value
    box = torch.tensor(value, device=device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box)


def gather_rows(values: Shaped[Tensor, "rows *rest"], capacity: int) -> Float[Tensor, "ranks capacity *rest"]:
    """The values of all ranks, one rank a line, padded with NaN to ``capacity`` so that every rank sends the same size.

    Ranks may hold different numbers of rows (the last batch, a batch sampler by length); a fixed size keeps the
    collective legal without asking first how many there are, which would wait for the device in every step. Whole
    numbers and truths, which have no NaN, become float64, which holds them exactly up to 2^53.
    """
    return _gather(with_nan(values), capacity, float("nan"))


def with_nan(values: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values in a type that has NaN."""
    return values if values.is_floating_point() else values.double()


def gather_ids(ids: Int[Tensor, "rows"], capacity: int) -> Int[Tensor, "ranks capacity"]:
    """The row ids of all ranks, padded with -1. Apart from any value: an id in a floating point type changes."""
    return _gather(ids, capacity, -1)


def _gather(
    values: Shaped[Tensor, "rows *rest"], capacity: int, filler: int | float
) -> Shaped[Tensor, "ranks capacity *rest"]:
    padded = values.new_full((capacity, *values.shape[1:]), filler)
    padded[: values.shape[0]] = values
    if world_size() == 1:
        return padded[None]
    lines = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(lines, padded)
    return torch.stack(lines)


def gather_objects(value: Any) -> list[Any]:
    """The ``value`` of every rank, on every rank. Waits for all of them; for checkpoints, not for steps."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
