"""Run one cell: a fit in a setting by one of ours, and everything that is to be seen of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_select.callbacks.wrap import Wrap
from lightning_select.compat import Callback
from tests.support import columns
from tests.support.columns import Column
from tests.support.modules import EPOCHS, ROWS

QUIET: dict[str, Any] = {
    "max_epochs": EPOCHS,
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}


class Observer(Callback):
    """What reaches the step: ids of rows, and the weights that were applied to them."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.rows: list[list[int]] = []
        self.weighted = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append([row for part in _parts(batch) for row in part.tolist()])

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        for callback in trainer.callbacks:
            applied = getattr(getattr(callback, "interception", None), "applied", None)
            if applied is not None and (applied - 1).abs().max() > 1e-3:
                self.weighted += 1
                return


def _parts(batch: Any) -> list[Tensor]:
    """Row ids of a batch, of each loader that it is put together from."""
    if isinstance(batch, dict) and ("index" in batch or "place" in batch):
        return [batch["index"] if "index" in batch else batch["place"]]
    parts = batch.values() if isinstance(batch, dict) else batch
    return [ids for part in parts if part is not None for ids in _parts(part)]


class Cell:
    """A feature, run by one of ours or, for comparison, by nobody.

    Args:
        feature: What Lightning is told.
        column: Who of ours takes part; ``None``: nobody.
        folder: An empty folder of its own.
    """

    def __init__(self, feature: Any, column: Column | None, folder: Path) -> None:
        self.feature, self.column, self.folder = feature, column, folder
        self.begin_again()

    def begin_again(self, before: int = 0) -> None:
        """All that a new process would make anew; so many steps were made ``before`` by another run."""
        self.steps_before, self.world = before, 1
        torch.manual_seed(1)
        column = self.column
        self.pairs = column is not None and column.module is not None
        self.module: Any = column.module() if column is not None and column.module else self.feature.module()
        self.sampler = column.sampler(ROWS) if column is not None and column.sampler else None
        self.ours = [] if column is None else column.callbacks(self.folder)
        self.observer = Observer()
        columns.NOTED.clear()
        self.before = vars(self.module).keys() | set()
        self.weights = weights_of(self.module)

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is spawned: tables of functions stay behind, and are found by name."""
        name = None if self.column is None else self.column.name
        return {key: value for key, value in vars(self).items() if key not in ("feature", "trainer")} | {"column": name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        name = state["column"]
        vars(self).update(state, feature=None, column=None if name is None else columns.BY_NAME[name])

    def trainer(self, *callbacks: Any, **settings: Any) -> Any:
        flags = QUIET | dict(self.feature.trainer) | settings
        if flags.get("barebones"):
            told = (
                "logger",
                "enable_checkpointing",
                "enable_progress_bar",
                "enable_model_summary",
                "log_every_n_steps",
            )
            flags = {key: value for key, value in flags.items() if key not in (*told, "num_sanity_val_steps")}
        made = [*self.ours, *self.feature.callbacks(), *callbacks, self.observer]
        torch.manual_seed(2)
        trainer = self.feature.library.Trainer(callbacks=made, default_root_dir=self.folder, **flags)
        self.world = trainer.world_size
        return trainer

    def data(self) -> dict[str, Any]:
        return self.feature.data(self)


@dataclass(frozen=True)
class Seen:
    """What came of a cell.

    Args:
        error: What was raised; ``None``: the fit ended.
        rows: Rows of each step.
        weighted: Steps whose rows had weights that were not all one.
        left: Attributes that are there and were not, by object.
        ours: Names under which something of ours still hangs on the module, the Trainer or the loaders.
        weights: Parameters and buffers in the end.
        untouched: Are these what they were at the start?
        pairs: Pairs that a review was offered and those that it kept, by step and model.
        cell: All the rest.
    """

    error: BaseException | None
    rows: list[list[int]]
    weighted: int
    left: dict[str, set[str]]
    ours: list[str]
    weights: dict[str, Tensor]
    untouched: bool
    pairs: list[tuple[int, int]]
    cell: Cell


def run(feature: Any, column: Column | None, folder: Path) -> Seen:
    """Run a cell; an error is part of what is seen."""
    cell, trainer, error = Cell(feature, column, folder), None, None
    made: list[Any] = []
    cell.trainer = _noting(cell.trainer, made)  # type: ignore[method-assign]
    try:
        trainer = feature.run(cell)
    except Exception as caught:
        error = caught
    return seen_of(cell, trainer or (made[-1] if made else None), error)


def seen_of(cell: Cell, trainer: Any, error: BaseException | None) -> Seen:
    """What is to be seen after a fit."""
    weights = weights_of(cell.module)
    alike = weights.keys() == cell.weights.keys() and all(_equal(weights[key], cell.weights[key]) for key in weights)
    left = {"module": set(vars(cell.module)) - cell.before}
    if trainer is not None:
        left |= {"trainer": set(vars(trainer)), "strategy": set(vars(trainer.strategy))}
    rows, weighted, hanging = cell.observer.rows, cell.observer.weighted, _hanging(cell, trainer)
    return Seen(error, rows, weighted, left, hanging, weights, alike, [*columns.NOTED], cell)


def weights_of(module: Any) -> dict[str, Tensor]:
    """Parameters and buffers, whole where they are sharded; every rank has to ask."""
    held = {key: value.detach() for key, value in module.state_dict().items()}
    whole = {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in held.items()}
    return {key: value.cpu().clone() for key, value in whole.items()}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _noting(make: Any, made: list[Any]) -> Any:
    def noted(*args: Any, **kwargs: Any) -> Any:
        made.append(make(*args, **kwargs))
        return made[-1]

    return noted


def _hanging(cell: Cell, trainer: Any) -> list[str]:
    """Where something of ours hangs that hung nowhere before."""
    found = []
    source = None if trainer is None else getattr(trainer.fit_loop, "_data_source", None)
    loaders = None if trainer is None else trainer.train_dataloader
    flat = loaders if isinstance(loaders, list) else list(loaders.values()) if isinstance(loaders, dict) else [loaders]
    for owner in (cell.module, trainer, getattr(trainer, "strategy", None), source, *flat):
        for name, value in getattr(owner, "__dict__", {}).items():
            here = type(value).__module__.startswith("lightning_select.callbacks")
            if isinstance(value, Wrap) or (here and not isinstance(value, pl.Callback)):
                found.append(f"{type(owner).__name__}.{name}")
    return found
