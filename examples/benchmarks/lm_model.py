"""A small language model of characters: an ordinary LightningModule that knows nothing of selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from common import InMemory
from lightning.pytorch import LightningModule
from torch import Tensor, nn

__all__ = ["CharacterModel"]

WARM_UP = 20
"""Updates in which the rate rises to its full height."""


class CharacterModel(LightningModule):
    """One LSTM layer, next-character cross entropy, AdamW, gradients clipped to norm one.

    The rate rises in the first updates; from there it stays, or falls linearly to zero at the end (``decay``).
    """

    def __init__(self, vocabulary: int, features: int, rate: float, decay: bool) -> None:
        super().__init__()
        self.rate, self.decay = rate, decay
        self.characters = nn.Embedding(vocabulary, features)
        self.memory = nn.LSTM(features, features, batch_first=True)
        self.head = nn.Linear(features, vocabulary)

    def loss(self, tokens: Tensor) -> Tensor:
        states, _ = self.memory(self.characters(tokens[:, :-1]))
        return F.cross_entropy(self.head(states).transpose(1, 2), tokens[:, 1:])

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch[0])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    @torch.no_grad()
    def figure(self, held_out: InMemory) -> float:
        return float(self.loss(held_out.columns[0]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.01)
        total = int(self.trainer.estimated_stepping_batches)

        def share(step: int) -> float:
            return min(1.0, (step + 1) / WARM_UP) * (1 - step / total if self.decay else 1.0)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
