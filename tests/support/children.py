"""A fit whose processes are children of this one, made by fork or spawn: each child judges what it saw."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch

from tests.support.running import Cell, seen_of
from tests.support.verdicts import write

__all__ = ["fit"]


def fit(cell: Cell) -> Any:
    """As everywhere; the Trainer and the cell go to a spawned child in one pickle, and are still each other's there."""
    trainer = cell.trainer()
    trainer._fit_impl = functools.partial(_fit_and_judge, trainer, cell)
    trainer.fit(cell.module, **cell.data())
    return trainer


def _fit_and_judge(trainer: Any, cell: Cell, *args: Any, **kwargs: Any) -> Any:
    del trainer._fit_impl
    torch.set_num_threads(1)
    result = trainer._fit_impl(*args, **kwargs)
    cell.module, cell.world = trainer.lightning_module, trainer.world_size
    seen = seen_of(cell, trainer, None)
    file = cell.folder.parent / f"plain.{trainer.global_rank}.pt"
    if cell.column is None:
        torch.save({"rows": seen.rows, "weights": seen.weights, "left": seen.left}, file)
        plain: Any = seen
    else:
        plain = SimpleNamespace(**torch.load(file, weights_only=False))
    write(cell.folder, trainer.global_rank, seen, plain)
    return result
