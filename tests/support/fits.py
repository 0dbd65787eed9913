"""How a fit is begun: data for a cell, and what is done with its Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from tests.preferences.pairs_of import Pairs
from tests.preferences.pairs_of import loader as pairs_loader
from tests.support.modules import EPOCHS, SIZE, Flow, Rows, rows_loader

Cell = Any
"""`tests.support.running.Cell`, which runs a feature by one of ours."""


def one_loader(cell: Cell, **kwargs: Any) -> dict[str, Any]:
    if cell.pairs:
        return {"train_dataloaders": pairs_loader(Pairs(), 4, **kwargs)}
    return {"train_dataloaders": rows_loader(cell.sampler, **kwargs)}


def with_validation(cell: Cell) -> dict[str, Any]:
    data = one_loader(cell)
    other = DataLoader(Pairs(), 8) if cell.pairs else DataLoader(Rows(), SIZE)
    return data | {"val_dataloaders": other}


def workers(cell: Cell) -> dict[str, Any]:
    return one_loader(cell, num_workers=1, persistent_workers=True)


def as_dict(cell: Cell) -> dict[str, Any]:
    return {"train_dataloaders": {"a": rows_loader(cell.sampler), "b": rows_loader()}}


def as_list(cell: Cell) -> dict[str, Any]:
    return {"train_dataloaders": [rows_loader(cell.sampler), rows_loader()]}


def combined(mode: str) -> Callable[[Cell], dict[str, Any]]:
    def data(cell: Cell) -> dict[str, Any]:
        parts = {"a": rows_loader(cell.sampler), "b": rows_loader(rows=16)}
        return {"train_dataloaders": CombinedLoader(parts, mode)}

    return data


def flow(cell: Cell) -> dict[str, Any]:
    order = {} if cell.sampler is None else {"sampler": cell.sampler}
    return {"train_dataloaders": DataLoader(Flow(), SIZE, **order)}


class Data(pl.LightningDataModule):
    """Makes its loaders when it is asked, of the size it is told."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell, self.batch_size = cell, SIZE

    def train_dataloader(self) -> Any:
        if self.cell.pairs:
            return pairs_loader(Pairs(), self.batch_size // 2)
        order = {"shuffle": True} if self.cell.sampler is None else {"sampler": self.cell.sampler}
        return DataLoader(Rows(), self.batch_size, **order)


class DataWithValidation(Data):
    """The tuner of batch sizes asks a data module for these."""

    def val_dataloader(self) -> Any:
        return DataLoader(Pairs() if self.cell.pairs else Rows(), SIZE)


def data_module(cell: Cell) -> dict[str, Any]:
    return {"datamodule": Data(cell)}


def with_validation_module(cell: Cell) -> dict[str, Any]:
    return {"datamodule": DataWithValidation(cell)}


def fit(cell: Cell) -> Any:
    trainer = cell.trainer()
    trainer.fit(cell.module, **cell.data())
    return trainer


def compiled(backend: str) -> Callable[[Cell], Any]:
    def run(cell: Cell) -> Any:
        torch.compiler.reset()  # or torch gives up on a function that was compiled too often, and runs it as it is
        trainer = cell.trainer()
        trainer.fit(torch.compile(cell.module, backend=backend), **cell.data())
        return trainer

    return run


def compiled_in_place(cell: Cell) -> Any:
    torch.compiler.reset()
    cell.module.compile(backend="aot_eager")
    return fit(cell)


def compiled_network(cell: Cell) -> Any:
    torch.compiler.reset()
    cell.module.net = torch.compile(cell.module.net, backend="aot_eager")
    return fit(cell)


def lr_find(cell: Cell) -> Any:
    trainer, data = cell.trainer(), cell.data()
    cell.module.lr = 0.1
    Tuner(trainer).lr_find(cell.module, **data, num_training=6, update_attr=False)
    cell.observer.forget()
    trainer.fit(cell.module, **data)
    return trainer


def scale_batch_size(cell: Cell) -> Any:
    trainer, data = cell.trainer(), cell.data()
    # Lightning collects garbage after each trial, which takes a second in a process that runs many tests.
    with mock.patch("lightning.pytorch.tuner.batch_size_scaling.garbage_collection_cuda"):
        Tuner(trainer).scale_batch_size(cell.module, **data, init_val=8, max_trials=2, steps_per_trial=2)
    cell.observer.forget()
    data["datamodule"].batch_size = SIZE
    trainer.fit(cell.module, **data)
    return trainer


def resumed(cell: Cell) -> Any:
    """Amid the second epoch, in a Trainer and a module of its own."""
    every = theirs.ModelCheckpoint(cell.folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    saving = {"enable_checkpointing": True}
    cell.trainer(every, **saving).fit(cell.module, **cell.data())
    saved = max(cell.folder.glob("step=*.ckpt"), key=lambda file: int(file.stem.partition("=")[2]))
    cell.begin_again(before=int(saved.stem.partition("=")[2]))
    trainer = cell.trainer(max_epochs=EPOCHS + 1)
    trainer.fit(cell.module, **cell.data(), ckpt_path=saved)
    return trainer


class DeepSpeedStrategy(SingleDeviceStrategy):
    """Lightning's own cannot be made without a package that needs a GPU; what we do is decided by the name."""

    def __init__(self) -> None:
        super().__init__("cpu")


def deep_speed(cell: Cell) -> Any:
    trainer = cell.trainer(strategy=DeepSpeedStrategy())
    trainer.fit(cell.module, **cell.data())
    return trainer
