"""The data of `time_to_accuracy`: real images, texts and rows of a table, from a folder.

The folder has sub-folders: ``mnist`` (see `pruning`), ``cifar10n`` (32 x 32 images as ``train_*.zip`` in the order of
CIFAR-10 and ``test_*.zip`` with names ``class_number``, labels of people in ``labels.npz``, from
github.com/UCSC-REAL/cifar-10-100n), ``banking77`` (``train.csv.gz`` and ``test.csv.gz``, from
github.com/PolyAI-LDN/task-specific-datasets) and ``tabular`` (``adult-train.csv.gz`` and ``adult-test.csv.gz``, UCI).
"""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import InMemory
from torch import Tensor

__all__ = ["Rows", "adult", "banking77", "cifar10n", "even", "redundant", "with_wrong"]

Rows = tuple[Tensor, Tensor]
"""Inputs and labels."""

CLASSES = 10
"""Of images."""

NUMBERS = (0, 2, 4, 10, 11, 12)
"""Columns of Adult that hold numbers."""


def even(y: Tensor, each: int) -> tuple[Tensor, Tensor]:
    """Rows with ``each`` of every class, drawn at random, and the other rows."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    chosen = torch.cat([order[y[order] == label][:each] for label in range(int(y.max()) + 1)])
    left = torch.ones_like(y, dtype=torch.bool).index_fill_(0, chosen, False)
    return chosen, left.nonzero().squeeze(1)


def with_wrong(y: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """A share of the labels is that of another of ten classes, each one equally likely."""
    swapped = torch.randperm(len(y), generator=draw)[: round(share * len(y))]
    other = (y[swapped] + torch.randint(1, CLASSES, (len(swapped),), generator=draw)) % CLASSES
    return y.index_copy(0, swapped, other)


def redundant(
    pool: Rows, *, rows: int, copied: int, spare: int, wrong: float, side: int, shift: int, seed: int
) -> tuple[InMemory, InMemory]:
    """Nine of ten rows are near copies of the first ``copied`` rows of a pool in random order; some labels are wrong.

    A near copy is its original, moved by up to ``shift`` pixels each way, with normal noise of .05 of the range of the
    pixels. The tenth of the rows that is no copy is what comes next in the pool. Then a share ``wrong`` of all rows,
    copies or not, gets the label of another class, each one equally likely. So does the same share of the ``spare``
    rows, the last ones of the pool, which are the second part.
    """
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pool[1]), generator=draw)
    others = order[copied : copied + rows // 10]
    origins = order[:copied][torch.randint(copied, (rows - len(others),), generator=draw)]
    x, y = torch.cat([pool[0][origins], pool[0][others]]), torch.cat([pool[1][origins], pool[1][others]])
    copies = moved(x[: len(origins)].reshape(-1, side, side), shift, draw).flatten(1)
    x[: len(origins)] = (copies + 0.05 * torch.randn(copies.shape, generator=draw)).clamp(0.0, 1.0)
    left = pool[0][order[-spare:]], with_wrong(pool[1][order[-spare:]], wrong, draw)
    return InMemory(x, with_wrong(y, wrong, draw)), InMemory(*left)


def moved(images: Tensor, shift: int, draw: torch.Generator) -> Tensor:
    """Each image moved by up to ``shift`` pixels down and right, or up and left; zeros come in from the edges."""
    side, rows = images.shape[1], len(images)
    padded = F.pad(images, (shift,) * 4)
    down, right = (torch.randint(2 * shift + 1, (rows, 1), generator=draw) + torch.arange(side) for _ in range(2))
    return padded[torch.arange(rows)[:, None, None], down[:, :, None], right[:, None, :]]


def cifar10n(folder: Path, labels: str, side: int) -> tuple[Rows, Rows]:
    """Images averaged down to ``side`` x ``side`` pixels in [-1, 1]; people's labels to train on, true ones to test."""
    with np.load(folder / "labels.npz") as arrays:
        y = torch.tensor(arrays[labels], dtype=torch.int64)
    train = torch.cat([_images(path, side)[0] for path in sorted(folder.glob("train_*.zip"))])
    x, names = _images(next(iter(sorted(folder.glob("test_*.zip")))), side)
    mixed = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    true = torch.tensor([int(name.split("_")[0]) for name in names])
    return (train, y[: len(train)]), (x[mixed], true[mixed])


def _images(path: Path, side: int) -> tuple[Tensor, list[str]]:
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())
        pixels = np.stack([np.asarray(Image.open(archive.open(name))) for name in names])
    images = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.avg_pool2d(images, images.shape[-1] // side), [Path(name).name for name in names]


def banking77(folder: Path, columns: int) -> tuple[Rows, Rows]:
    """Counts of words and pairs of words, hashed into columns, each row of length one."""
    parts = [_table(folder / f"{part}.csv.gz")[1:] for part in ("train", "test")]
    classes = sorted({label for _, label in parts[0]})
    return tuple(  # type: ignore[return-value]
        (_hashed([text for text, _ in part], columns), torch.tensor([classes.index(label) for _, label in part]))
        for part in parts
    )


def _hashed(texts: Sequence[str], columns: int) -> Tensor:
    x = torch.zeros(len(texts), columns)
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        for term in [*words, *map(" ".join, itertools.pairwise(words))]:
            x[row, zlib.crc32(term.encode()) % columns] += 1
    return F.normalize(x)


def adult(folder: Path) -> tuple[Rows, Rows]:
    """Numbers with mean 0 and variance 1 (gain and loss of capital as logarithms), a column for each other value."""
    parts = [_table(folder / f"adult-{part}.csv.gz") for part in ("train", "test")]
    kinds = [
        (column, value)
        for column in range(14)
        if column not in NUMBERS
        for value in sorted({row[column] for row in parts[0]})
    ]
    place = {kind: index for index, kind in enumerate(kinds)}
    found = [_encoded(part, place) for part in parts]
    middle, spread = found[0][0].mean(dim=0), found[0][0].std(dim=0)
    return tuple(  # type: ignore[return-value]
        (torch.cat([(numbers - middle) / spread, kind], dim=1), y) for numbers, kind, y in found
    )


def _encoded(table: Sequence[Sequence[str]], place: dict[tuple[int, str], int]) -> tuple[Tensor, Tensor, Tensor]:
    numbers = torch.tensor([[float(row[column]) for column in NUMBERS] for row in table])
    numbers[:, 3:5] = numbers[:, 3:5].log1p()
    kind = torch.zeros(len(table), len(place))
    for index, row in enumerate(table):
        for column in range(14):
            if (column, row[column]) in place:
                kind[index, place[column, row[column]]] = 1.0
    return numbers, kind, torch.tensor([int(row[14].startswith(">")) for row in table])


def _table(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file, skipinitialspace=True) if row]
