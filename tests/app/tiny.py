"""A module and a data module as a user would write them, small; and callbacks that watch them train."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

ROWS, FEATURES, CLASSES = 96, 5, 3

ROWS_SEEN: list[int] = []
"""Rows of every training step that was run, whoever ran it."""

SAMPLERS: list[Any] = []
"""Every sampler that was made."""

NOTES: list[list[Any]] = []
"""What `Note` saw, one list per fit."""


class Points(Dataset[Any]):
    def __init__(self, rows: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(rows, FEATURES, generator=draw)
        self.y = self.x[:, :CLASSES].argmax(dim=1)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"x": self.x[row], "y": self.y[row], "flipped": row % 4 == 0, "id": row}


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(ROWS, 0), self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(32, 1), 32)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(32, 2), 32)


class Sampled(Data):
    """Takes a sampler."""

    def __init__(self, batch_size: int = 8, sampler: Any = None) -> None:
        super().__init__(batch_size)
        self.make = sampler
        self.samplers: list[Any] = []

    def train_dataloader(self) -> DataLoader[Any]:
        if self.make is None:
            return super().train_dataloader()
        rows = Points(ROWS, 0)
        self.samplers.append(self.make(rows))
        SAMPLERS.append(self.samplers[-1])
        return DataLoader(rows, self.batch_size, sampler=self.samplers[-1], drop_last=True)


class Fixed(Data):
    """Its batches are as large as they are."""

    def __init__(self) -> None:
        super().__init__()


class Named(Data):
    """Calls the size something else."""

    def __init__(self, rows: int = 4) -> None:
        super().__init__(rows)


class Asking(Data):
    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)


class Streamed(Data):
    """Rows that come without numbers."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Stream(), self.batch_size)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        points = Points(ROWS, 0)
        return (points[row] for row in range(ROWS))


class WithoutTestData(Data):
    test_dataloader = pl.LightningDataModule.test_dataloader


class Module(pl.LightningModule):
    """Has dropout, so that training draws from the global generator."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        ROWS_SEEN.append(len(batch["y"]))
        loss = F.cross_entropy(self.net(batch["x"]), batch["y"])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/acc", self._right(batch), batch_size=len(batch["y"]))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test/acc", self._right(batch), batch_size=len(batch["y"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def _right(self, batch: dict[str, Tensor]) -> Tensor:
        return (self.net(batch["x"]).argmax(dim=1) == batch["y"]).float().mean()


class WithoutTest(Module):
    test_step = pl.LightningModule.test_step


class Underscore(Module):
    """Names its metrics in another way."""

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_acc", self._right(batch), batch_size=len(batch["y"]))


class Quiet(Underscore):
    """Logs nothing while Lightning tries out the validation."""

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            super().validation_step(batch, batch_idx)


class Tuples(Module):
    """Takes batches of two tensors, not dicts."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/acc", (self.net(batch[0]).argmax(dim=1) == batch[1]).float().mean())


class WithData(Module):
    def train_dataloader(self) -> DataLoader[Any]:
        return Data().train_dataloader()


class Note(pl.Callback):
    """The initial weights, then the ids of the rows of every step."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        NOTES.append([[parameter.sum().item() for parameter in pl_module.parameters()]])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        NOTES[-1].append(batch["id"].tolist())


class Crash(pl.Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        raise RuntimeError("it went wrong\nin several lines")


class Drawn:
    """A weighting that uses the global generator."""

    def __call__(self, losses: Tensor) -> Tensor:
        return torch.rand_like(losses)


class FirstTwo:
    """Only the first two rows of a batch count, by one and three."""

    def __call__(self, losses: Tensor) -> Tensor:
        return torch.tensor([1.0, 3.0] + [0.0] * (len(losses) - 2))


LENGTHS: list[int] = []
"""Lengths of the schedules of `Scheduled`."""


class Scheduled(Module):
    """Its learning rate falls to zero over a length that its config names."""

    def __init__(self, lr: float = 0.05, length: int = 1) -> None:
        super().__init__(lr)
        self.length = length

    def configure_optimizers(self) -> Any:
        LENGTHS.append(self.length)
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=self.length)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Own(Module):
    """Brings data of its own when it is told to."""

    def __init__(self, lr: float = 0.05, validate: int = 1, rows: int = ROWS, shuffle: bool = True) -> None:
        super().__init__(lr)
        self.validate, self.rows, self.shuffle = validate, rows, shuffle

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(self.rows, 0), 8, shuffle=self.shuffle, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(32, self.validate), 32)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Points(32, 2), 32)


class Brief(pl.Callback):
    """Ends the training early."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 3
