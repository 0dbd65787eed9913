"""One fit of `time_to_accuracy`: an ordinary module, what every look at it found, and what each had cost until then."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from common import QUIET, InMemory, without_attached
from fits import ORDER, WEIGHTS, scheduled
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from pruning import Data
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Sampler

__all__ = ["Classifier", "Look", "Outcome", "Parts", "Passes", "fit", "perceptron", "size_of", "small_cnn"]

LOOKS = 20
"""At equal distances, the last one at the end."""


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with rectifiers between them."""
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def small_cnn(channels: int, hidden: int) -> nn.Sequential:
    """Three convolutions down from 16 x 16 pixels to 2 x 2, and two linear layers."""
    wide = 2 * channels
    return nn.Sequential(
        nn.Conv2d(3, channels, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(channels, wide, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(wide, wide, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * wide, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )


class Classifier(LightningModule):
    """Cross entropy, AdamW, and a rate that falls linearly to zero; nothing of it knows of selection."""

    def __init__(self, net: nn.Module, rate: float) -> None:
        super().__init__()
        self.net, self.rate = net, rate

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    @torch.no_grad()
    def accuracy(self, rows: InMemory) -> float:
        x, y = rows.columns
        return float((self.net(x).argmax(dim=-1) == y).double().mean())

    def configure_optimizers(self) -> Any:
        return scheduled(self, torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.01), decay=True)


@dataclass(frozen=True)
class Look:
    """The accuracy after some updates, and all that was done until then.

    Attributes:
        forward: Rows that went forward through a model: in training, scoring, probing and for a reference.
        backward: Those of them that went back too.
        units: Compute: a row forward is 1 and back 2, and less in a smaller network, by its share of the parameters.
        seconds: Of the processor, since the method began; looks are not counted.
    """

    updates: int
    forward: int
    backward: int
    units: float
    seconds: float
    accuracy: float


Outcome = Sequence[Look]


@dataclass
class Passes:
    """Rows so far, and units by the parameters of the network in training."""

    parameters: int
    forward: int = 0
    backward: int = 0
    units: float = 0.0

    def add(self, rows: int, net: nn.Module, back: bool) -> None:
        """Rows that went forward through ``net``, and back too."""
        self.forward += rows
        self.backward += rows * back
        self.units += rows * (1 + 2 * back) * size_of(net) / self.parameters


def size_of(net: nn.Module) -> int:
    """Its parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


@contextmanager
def _counted(passes: Passes) -> Iterator[None]:
    """Count the rows of every training step, whoever runs it, on whatever copy; those with gradients go back too."""
    step = Classifier.training_step

    @functools.wraps(step)
    def counting(module: Classifier, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        passes.add(len(batch[1]), module.net, torch.is_grad_enabled())
        return step(module, batch, batch_idx)

    Classifier.training_step = counting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Classifier.training_step = step  # type: ignore[method-assign]


class _Watch(Callback):
    """Looks at the module after some updates."""

    def __init__(self, marks: AbstractSet[int], rows: InMemory, passes: Passes) -> None:
        self.looks: list[Look] = []
        self._marks, self._rows, self._passes = marks, rows, passes
        self._started = time.process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step not in self._marks:
            return
        now = time.process_time()
        pl_module.eval()
        accuracy = pl_module.accuracy(self._rows)
        pl_module.train()
        passes = self._passes
        seconds = now - self._started
        self.looks.append(Look(trainer.global_step, passes.forward, passes.backward, passes.units, seconds, accuracy))
        self._started += time.process_time() - now


Parts = tuple[Sequence[Callback], Sampler[int] | None, int]
"""Callbacks, a sampler of ours or none, and the rows of a batch of the loader."""


def fit(
    net: Callable[[], nn.Module],
    rate: float,
    data: Data,
    parts: Callable[[Passes], Parts],
    steps: int,
    seed: int,
    held_out: bool = False,
) -> Outcome:
    """Fit once. Initial weights and uniform's order depend on the seed alone, so that methods can be paired.

    Args:
        parts: Makes what the method adds; what this costs is counted.
        held_out: Look at the validation rows, to tune, instead of the test rows.
    """
    seed_everything(WEIGHTS + seed, verbose=False)
    module = Classifier(net(), rate)
    marks = {max(1, round(steps * part / LOOKS)) for part in range(1, LOOKS + 1)}
    passes = Passes(size_of(module.net))
    with _counted(passes):
        watch = _Watch(marks, data.validation if held_out else data.test, passes)
        callbacks, sampler, batch = parts(passes)
        if sampler is None:
            sampler = RandomSampler(data.train, generator=torch.Generator().manual_seed(ORDER + seed))
        loader = DataLoader(data.train, batch, sampler=sampler, drop_last=True, collate_fn=lambda rows: rows)
        trainer = Trainer(**QUIET, max_epochs=-1, max_steps=steps, callbacks=[*callbacks, watch])
        without_attached(trainer).fit(module, loader)
    return watch.looks
