"""Batches of torch_geometric, whose rows are graphs."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

__all__ = ["is_graph", "teach_graphs"]


@cache
def is_graph(kind: Any) -> bool:
    """Is this a class of torch_geometric, or derived from one?"""
    return any(base.__module__.startswith("torch_geometric.") for base in kind.__mro__)


@cache
def teach_graphs(take_rows: Any, count_rows: Any) -> None:
    """Register graphs with both functions, when the first one is seen: nobody else must import torch_geometric."""
    from torch_geometric.data import Batch as Graphs
    from torch_geometric.data.data import BaseData

    def take(batch: Any, index: Tensor) -> Any:
        return Graphs.from_data_list(batch.index_select(index)) if isinstance(batch, Graphs) else batch

    def count(batch: Any) -> int:
        return batch.num_graphs if isinstance(batch, Graphs) else 1

    take_rows.register(BaseData, take)
    count_rows.register(BaseData, count)
