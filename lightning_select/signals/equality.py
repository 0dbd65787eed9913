"""Do two tensors hold the same numbers? Of any layout; torch compares dense ones alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["same_values"]


def same_values(one: Tensor, other: Tensor) -> bool:
    """Are they alike in layout, shape and every number?"""
    if one.layout != other.layout or one.is_nested != other.is_nested:
        return False
    if one.is_nested:  # some of these have no shape
        mine, theirs = one.unbind(), other.unbind()
        return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))
    if one.shape != other.shape:
        return False
    if one.layout is torch.strided:
        return torch.equal(one, other)
    return all(torch.equal(mine, theirs) for mine, theirs in zip(_dense(one), _dense(other), strict=True))


def _dense(tensor: Tensor) -> Sequence[Tensor]:
    """What it is made of, as dense tensors: the places as well as the numbers of a sparse one."""
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        return tensor.indices(), tensor.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor.to_dense(),)
