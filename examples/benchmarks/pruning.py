"""Images of real digits, a small classifier of them, and one fit of it: uniform or with InfoBatch, rate down to zero.

scikit-learn's 1,797 digits of 8 x 8 pixels, or MNIST from a folder with its idx files, gzipped or not. Instead of the
two files of the training part there may be one ``*.npz`` with the arrays ``X`` and ``y``.
"""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import QUIET, InMemory
from fits import ORDER, WEIGHTS
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.samplers.info_batch import InfoBatch

__all__ = ["Data", "Images", "Outcome", "fit", "load_images"]

MNIST_ROWS = 10_000
"""Rows of MNIST that are trained on, so that it takes minutes."""


@dataclass(frozen=True)
class Data:
    """Rates are chosen on ``validation``, figures are of ``test``."""

    train: InMemory
    validation: InMemory
    test: InMemory


@dataclass(frozen=True)
class Images:
    """All there are; ``held_out`` is None where each seed makes its own split."""

    name: str
    rows: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor] | None
    batch: int
    width: int
    sizes: tuple[int, int, int]

    def split(self, seed: int) -> Data:
        """Rows to train on, to choose rates on and to test on."""
        draw = torch.Generator().manual_seed(seed)
        train, validation, test = self.sizes
        order = torch.randperm(len(self.rows[1]), generator=draw)
        if self.held_out is None:
            parts = [(self.rows, rows) for rows in order[: sum(self.sizes)].split(self.sizes)]
        else:  # a fixed test part: rates must not be chosen on any of it, whatever the seed
            halves = torch.arange(validation + test).split((validation, test))
            parts = [(self.rows, order[:train]), *((self.held_out, half) for half in halves)]
        return Data(*(InMemory(x[rows], y[rows]) for (x, y), rows in parts))


def load_images(folder: Path | None) -> Images:
    """Digits, or MNIST from a folder."""
    if folder is None:
        x, y = load_digits(return_X_y=True)
        rows = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
        return Images("digits", rows, None, batch=32, width=64, sizes=(1097, 200, 500))
    rows, held_out = _mnist(folder, "train"), _mnist(folder, "t10k")
    half = len(held_out[1]) // 2
    sizes = min(MNIST_ROWS, len(rows[1])), half, len(held_out[1]) - half
    return Images("MNIST", rows, held_out, batch=64, width=128, sizes=sizes)


def _mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    packed = sorted(folder.glob(f"{part}*.npz"))
    if packed:
        with np.load(packed[0]) as arrays:
            x, y = arrays["X"], arrays["y"]
    else:
        x, y = _idx(folder, f"{part}-images-idx3-ubyte", 16), _idx(folder, f"{part}-labels-idx1-ubyte", 8)
    pixels = torch.tensor(x, dtype=torch.float32).reshape(len(y), -1) / 255
    return pixels, torch.tensor(y, dtype=torch.int64)


def _idx(folder: Path, name: str, header: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    plain, zipped = folder / name, folder / f"{name}.gz"
    content = plain.read_bytes() if plain.exists() else gzip.decompress(zipped.read_bytes())
    return np.frombuffer(content, np.uint8, offset=header)


class Classifier(LightningModule):
    """Cross entropy of a perceptron with two hidden layers; nothing of it knows of pruning."""

    def __init__(self, pixels: int, width: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        layers = nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        self.net = nn.Sequential(*layers)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    @torch.no_grad()
    def figures(self, rows: InMemory) -> tuple[float, float]:
        """Accuracy and loss."""
        x, y = rows.columns
        logits = self.net(x)
        return float((logits.argmax(dim=-1) == y).double().mean()), float(F.cross_entropy(logits, y))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)


class Watch(Callback):
    """Takes the rate to zero by the share of training that is done, and counts the samples of the batches.

    By the share, since InfoBatch's epochs have different lengths and nobody knows the number of steps beforehand.
    """

    samples = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.max_steps > 0:
            done = trainer.global_step / trainer.max_steps
        else:
            done = (trainer.current_epoch + batch_idx / trainer.num_training_batches) / trainer.max_epochs
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = pl_module.rate * (1 - done)
        self.samples += len(batch[1])


@dataclass(frozen=True)
class Outcome:
    """One fit; seconds are those of the processor for all of it, planning and feeding the sampler included."""

    accuracy: float
    loss: float
    validation: tuple[float, float]
    updates: int
    samples: int
    seconds: float


def fit(images: Images, seed: int, rate: float, pruned: bool, epochs: int, samples: int | None = None) -> Outcome:
    """One fit for some epochs, or until so many samples were trained on, if that is sooner.

    Split, initial weights and uniform's order depend on the seed alone.
    """
    data = images.split(seed)
    seed_everything(WEIGHTS + seed, verbose=False)
    module = Classifier(data.train.columns[0].shape[1], images.width, rate)
    limits: Mapping[str, Any] = {"max_epochs": epochs}
    if samples is not None:
        passes, rest = divmod(samples, len(data.train))
        steps = passes * math.ceil(len(data.train) / images.batch) + math.ceil(rest / images.batch)
        limits = {"max_epochs": epochs, "max_steps": steps}
    started, watch = time.process_time(), Watch()
    if pruned:
        sampler: Any = InfoBatch(data.train, mode="shrinking", ratio=0.5, seed=ORDER + seed)
        more: Mapping[str, Any] = {"reload_dataloaders_every_n_epochs": 1}
    else:
        sampler, more = RandomSampler(data.train, generator=torch.Generator().manual_seed(ORDER + seed)), {}
    callbacks = [*([SamplerFeedback()] if pruned else []), watch]
    trainer = Trainer(**QUIET, **limits, **more, callbacks=callbacks)
    trainer.fit(module, DataLoader(data.train, images.batch, sampler=sampler, collate_fn=lambda batch: batch))
    seconds = time.process_time() - started
    module.eval()
    figures = module.figures(data.test), module.figures(data.validation)
    return Outcome(*figures[0], figures[1], trainer.global_step, watch.samples, seconds)
