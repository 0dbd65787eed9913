"""Labelled rows of which some labels are wrong, and it is known which: people's mistakes, and made ones."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

__all__ = ["Images", "Net", "Task", "Vectors", "tasks"]


@dataclass(frozen=True)
class Task:
    """Rows, the labels that are given, and which of them are wrong.

    Attributes:
        name: What the table calls it.
        x: Rows.
        given: Labels to train on.
        wrong: Which of them are wrong.
        epochs: Epochs of the budget, each over all rows.
        batch: Rows of a batch.
        lr: Learning rate.
        bars: What AUROC, and average precision over the share of wrong labels, must be at least; empty: no bar.
    """

    name: str
    x: Tensor = field(repr=False)
    given: Tensor = field(repr=False)
    wrong: Tensor = field(repr=False)
    epochs: int
    batch: int
    lr: float
    bars: tuple[float, ...] = ()

    @property
    def classes(self) -> int:
        return int(self.given.max()) + 1

    def rows(self, index: Tensor) -> Dataset[Any]:
        return (Images if self.x.dim() == 4 else Vectors)(self.x[index], self.given[index])


class Vectors(Dataset[Any]):
    """Rows as they are, a batch at a time."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(rows)
        return self.x[index], self.y[index]

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.x[row], self.y[row]


class Images(Vectors):
    """Images that are mirrored half of the time and shifted by at most one pixel."""

    def __getitems__(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        x, y = super().__getitems__(rows)
        mirrored = torch.rand(len(rows)) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        down, right = torch.randint(-1, 2, (2,)).tolist()
        return x.roll((down, right), (2, 3)), y


class Net(pl.LightningModule):
    """An ordinary classifier: a small convolutional network on images, a multilayer perceptron on vectors."""

    def __init__(self, task: Task, steps: int) -> None:
        super().__init__()
        self.lr, self.steps = task.lr, steps
        self.net = _convolutions(task.classes) if task.x.dim() == 4 else _perceptron(task.x.shape[1], task.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        if isinstance(self.net[0], nn.Linear):
            return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.01)
        sgd = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, self.steps)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def tasks(folder: Path | None) -> list[Task]:
    """The tasks whose data are in ``folder``; without one, digits of scikit-learn."""
    if folder is None:
        return [_digits()]
    return [*_cifar(folder / "cifar10n"), _banking(folder / "banking77")]


def _convolutions(classes: int, width: int = 32) -> nn.Sequential:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    layers = [*block(3, width), *block(width, width), nn.MaxPool2d(2), *block(width, 2 * width), nn.MaxPool2d(2)]
    tail = [*block(2 * width, 4 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)]
    return nn.Sequential(*layers, *tail)


def _perceptron(inputs: int, classes: int, width: int = 256) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


def _cifar(folder: Path) -> list[Task]:
    """12,000 images of CIFAR-10 at 16 x 16 with the labels that people gave them in CIFAR-10N (Wei et al. 2022)."""
    from PIL import Image

    images = []
    for archive in sorted(folder.glob("train_*.zip")):
        with zipfile.ZipFile(archive) as opened:
            names = sorted(opened.namelist())
            images += [np.asarray(Image.open(io.BytesIO(opened.read(name)))) for name in names]
    x = F.avg_pool2d(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255, 2)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    labels = np.load(folder / "labels.npz")
    right = torch.from_numpy(labels["clean_label"]).long()
    made = []
    for name, key, bars in (("CIFAR-10N worst", "worse_label", (0.84, 1.95)), ("random", "random_label1", (0.87, 3.7))):
        given = torch.from_numpy(labels[key]).long()
        made.append(Task(name.replace("random", "CIFAR-10N random"), x, given, given != right, 14, 128, 0.05, bars))
    return made


def _banking(folder: Path) -> Task:
    """10,003 questions of customers in 77 intents; a fifth of the labels is changed to another intent by chance."""
    from sklearn.feature_extraction.text import HashingVectorizer

    with gzip.open(folder / "train.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    names = sorted({line["category"] for line in table})
    words = HashingVectorizer(n_features=2048, ngram_range=(1, 2), alternate_sign=False)
    x = torch.from_numpy(words.transform([line["text"] for line in table]).toarray()).float() * 4
    right = torch.tensor([names.index(line["category"]) for line in table])
    return Task("Banking77, 20 % changed", x, *_changed(right, 0.2), 14, 64, 1e-3)


def _digits() -> Task:
    """1,797 digits of 8 x 8 pixels; a fifth of the labels is changed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.from_numpy(data.data).float() / 16
    return Task(
        "digits, 20 % changed", x, *_changed(torch.from_numpy(data.target).long(), 0.2), 20, 32, 1e-3, (0.99, 4.5)
    )


def _changed(right: Tensor, share: float) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(right), generator=draw) < share
    classes = int(right.max()) + 1
    others = (right + torch.randint(1, classes, right.shape, generator=draw)) % classes
    return torch.where(wrong, others, right), wrong
