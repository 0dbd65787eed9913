"""Short fits on the CPU."""

from __future__ import annotations

import inspect
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_select.protocols import SelectionContext
from lightning_select.types import Selection
from tests.modules import features

NEW = "weights_only" in inspect.signature(pl.Trainer.fit).parameters
SAFELY: dict[str, Any] = {"weights_only": True} if NEW else {}
"""How a fit is told to load nothing but tensors; before Lightning 2.6 it cannot be told."""


class Rows(Dataset):
    """Items of a list of batches of one row, which the default collate function stacks."""

    def __init__(self, make: Any = features, rows: int = 48) -> None:
        self.batch = make(rows=rows)
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, position: int) -> Any:
        if isinstance(self.batch, dict):
            return {key: value[position] for key, value in self.batch.items()}
        return tuple(value[position] for value in self.batch)


def loader(make: Any = features, *, rows: int = 48, size: int = 8, **kwargs: Any) -> DataLoader:
    kwargs.setdefault("shuffle", True)
    return DataLoader(Rows(make, rows), batch_size=size, **kwargs)


def trainer(*callbacks: Any, **kwargs: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "callbacks": list(callbacks),
    }
    return pl.Trainer(**(settings | kwargs))


def fit(module: Any, *callbacks: Any, data: Any = None, seed: int = 1, **kwargs: Any) -> pl.Trainer:
    """Fit with everything seeded; a class is instantiated after seeding."""
    torch.manual_seed(seed)
    made = module() if isinstance(module, type) else module
    done = trainer(*callbacks, **kwargs)
    torch.manual_seed(seed)
    done.fit(made, loader() if data is None else data)
    return done


def weights_of(trainer: pl.Trainer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in trainer.lightning_module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class First:
    """A selector that always takes the first rows, so that a fit can be compared with batches cut by hand."""

    needs: frozenset[str] = frozenset()
    with_replacement = False

    def __init__(self, weight: Any = None) -> None:
        self.weight = weight

    def __call__(self, scores: Tensor, count: int, context: SelectionContext) -> Selection:
        weight = None if self.weight is None else self.weight(count)
        return Selection(torch.arange(count, device=scores.device), weight)
