"""The tasks of `time_to_accuracy`: four from a folder of real data, two of scikit-learn's digits without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from common import InMemory
from pruning import Data, Images, load_images
from torch import nn
from tta_data import Rows, adult, banking77, cifar10n, even, redundant
from tta_fit import perceptron, small_cnn

__all__ = ["Task", "tasks"]

WRONG = 0.1
"""Share of the labels made wrong in the redundant tasks."""


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes:
        steps: Updates of uniform; with fewer it ends clearly lower (on Adult, hardly).
        rates: Largest learning rates that every method tries.
        spare: Rows like those that are no copies, as many labels wrong. A reference may learn from them; no model does,
            but that of one uniform run.
        small: A smaller network for a reference that learns from them.
    """

    name: str
    net: Callable[[], nn.Module]
    split: Callable[[int], Data]
    batch: int
    steps: int
    rates: Sequence[float]
    spare: Callable[[int], InMemory] | None = None
    small: Callable[[], nn.Module] | None = None

    @property
    def units(self) -> int:
        """Compute of uniform: a row forward is 1, a row back is 2."""
        return 3 * self.batch * self.steps


def tasks(folder: Path | None) -> list[Task]:
    """All there are."""
    if folder is None:
        digits = load_images(None)
        sizes, copies = (64, 128, 128, 10), {"rows": 2000, "copied": 30, "spare": 100, "side": 8, "shift": 0}
        first = _redundant(digits, sizes, (64, 32, 10), 16, 400, copies)
        net, rates = partial(perceptron, sizes), (1e-3, 3e-3, 1e-2)
        return [first, Task("digits", net, digits.split, 16, 400, rates)]
    mnist = load_images(folder / "mnist")
    sizes, copies = (784, 256, 256, 10), {"rows": 10_000, "copied": 100, "spare": 2000, "side": 28, "shift": 1}
    return [
        _redundant(mnist, sizes, (784, 64, 10), 32, 800, copies),
        _cifar10n(folder / "cifar10n"),
        _banking77(folder / "banking77"),
        _adult(folder / "tabular"),
    ]


def _redundant(
    images: Images, sizes: Sequence[int], small: Sequence[int], batch: int, steps: int, copies: dict[str, int]
) -> Task:
    """What is not trained on is shuffled first: the two halves of MNIST's test rows are not alike."""

    @lru_cache(maxsize=2)
    def made(seed: int) -> tuple[Data, InMemory]:
        data = images.split(seed)
        pool: Rows = (data.train.columns[0], data.train.columns[1])
        rest = [torch.cat(pair) for pair in zip(data.validation.columns, data.test.columns, strict=True)]
        rows, spare = redundant(pool, **copies, wrong=WRONG, seed=seed)
        return Data(rows, *_halves((rest[0], rest[1]))), spare

    net, rates = partial(perceptron, sizes), (3e-3, 6e-3, 1.2e-2)
    name = f"{images.name}, redundant and noisy"
    return Task(
        name,
        net,
        lambda seed: made(seed)[0],
        batch,
        steps,
        rates,
        lambda seed: made(seed)[1],
        partial(perceptron, small),
    )


def _cifar10n(folder: Path) -> Task:
    train, test = cifar10n(folder, "worse_label", side=16)
    parts = Data(InMemory(*train), *_halves(test))
    net = partial(small_cnn, channels=12, hidden=64)
    return Task("CIFAR-10N, worst labels", net, lambda seed: parts, 64, 400, (3e-3, 6e-3, 1.2e-2))


def _banking77(folder: Path) -> Task:
    train, test = banking77(folder, columns=1024)
    validation, rest = even(train[1], each=12)
    parts = Data(*(InMemory(train[0][rows], train[1][rows]) for rows in (rest, validation)), InMemory(*test))
    net = partial(perceptron, (1024, 256, 77))
    return Task("Banking77", net, lambda seed: parts, 64, 400, (6e-3, 1.2e-2, 2.4e-2))


def _adult(folder: Path) -> Task:
    train, test = adult(folder)
    parts = Data(InMemory(*train), *_halves(test))
    net = partial(perceptron, (train[0].shape[1], 128, 128, 2))
    return Task("Adult", net, lambda seed: parts, 128, 400, (1e-3, 3e-3, 1e-2))


def _halves(rows: Rows) -> tuple[InMemory, InMemory]:
    """To choose settings on, and to test on."""
    order = torch.randperm(len(rows[1]), generator=torch.Generator().manual_seed(0))
    first, second = order.chunk(2)
    return InMemory(rows[0][first], rows[1][first]), InMemory(rows[0][second], rows[1][second])
