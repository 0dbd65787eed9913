"""What a training step of a language model costs with UDS and without, by Lightning's Trainer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from common import QUIET, InMemory, loader, without_attached
from lightning.pytorch import Callback, LightningModule, Trainer
from overhead import Ratio
from torch import Tensor, nn

from lightning_select import BatchSelection
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.diverse import Diverse

__all__ = ["StepCost", "cost_of_a_step"]


@dataclass(frozen=True)
class Size:
    """Of the model and its batches."""

    rows: int = 16
    tokens: int = 128
    features: int = 256
    classes: int = 8192
    layers: int = 4
    steps: int = 8
    rounds: int = 3


FAST = Size(4, 8, 16, 50, 1, 3, 1)


@dataclass(frozen=True)
class StepCost:
    """Of steps with selection, over a plain step in the same round."""

    head: str
    plain_ms: float
    with_selection: Ratio
    scoring: Ratio


class Model(LightningModule):
    """An ordinary causal language model."""

    def __init__(self, size: Size, *, trained: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.classes, size.features)
        layer = nn.TransformerEncoderLayer(
            size.features, max(1, size.features // 64), 4 * size.features, 0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, size.layers, enable_nested_tensor=False)
        self.head = nn.Linear(size.features, size.classes, bias=False).requires_grad_(trained)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (ids,) = batch
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1] - 1, device=ids.device)
        hidden = self.blocks(self.embed(ids[:, :-1]), mask=mask, is_causal=True)
        return F.cross_entropy(self.head(hidden).flatten(0, 1), ids[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([weight for weight in self.parameters() if weight.requires_grad], lr=1e-4)


class Clock(Callback):
    """Time from batch to batch; the first steps set things up."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def median(self) -> float:
        taken = [late - early for early, late in zip(self.ends[1:], self.ends[2:], strict=False)]
        return statistics.median(taken)


class Share(Callback):
    """Seconds of scoring and drawing, as the callback logs them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.seconds.append(float(trainer.callback_metrics["batch_selection/scoring_seconds"]))


def _fit(size: Size, extra: Sequence[Callback], *, trained: bool) -> float:
    torch.manual_seed(0)
    rows = torch.randint(
        size.classes, (size.rows * size.steps, size.tokens), generator=torch.Generator().manual_seed(1)
    )
    clock = Clock()
    trainer = without_attached(Trainer(**QUIET, max_epochs=1, log_every_n_steps=1, callbacks=[*extra, clock]))
    trainer.fit(Model(size, trained=trained), loader(InMemory(rows), size.rows, 0))
    return clock.median


def cost_of_a_step(*, fast: bool) -> list[StepCost]:
    """With a head that is trained and with one that is not."""
    size, found = FAST if fast else Size(), []
    for head, trained in (("trained", True), ("frozen", False)):
        plain, ratios, shares = [], [], []
        for number in range(size.rounds):
            share = Share()
            callback = BatchSelection(NuclearNorm(), Diverse(), keep=0.25)
            arms = [("plain", []), ("selection", [callback, share])]
            seconds = {name: _fit(size, extra, trained=trained) for name, extra in arms[:: 1 if number % 2 else -1]}
            plain.append(seconds["plain"] * 1e3)
            ratios.append(seconds["selection"] / seconds["plain"])
            shares.append(statistics.median(share.seconds[1:]) / seconds["plain"])
        found.append(StepCost(head, statistics.median(plain), Ratio.of(ratios), Ratio.of(shares)))
    return found
