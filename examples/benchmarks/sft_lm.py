"""A small causal language model in plain torch, its first training on general text, and its fine-tuning.

The module knows nothing of selection: a batch has tokens and labels first, and the loss is the mean over all labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from common import QUIET, InMemory, loader
from fits import ORDER, WEIGHTS, scheduled
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sft_tokens import IGNORED
from torch import Tensor, nn

__all__ = ["LanguageModel", "Size", "pretrained"]


@dataclass(frozen=True)
class Size:
    """Of the model; a vocabulary of the tokenizer comes on top."""

    features: int = 96
    heads: int = 4
    blocks: int = 2


class Block(nn.Module):
    """Attention to what came before, then a perceptron; norms come first."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(features), nn.LayerNorm(features)])
        self.mix = nn.Linear(features, 3 * features)
        self.out = nn.Linear(features, features)
        self.wide = nn.Linear(features, 4 * features)
        self.narrow = nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, features = x.shape
        parts = self.mix(self.norms[0](x)).view(rows, tokens, 3, self.heads, features // self.heads).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, tokens, features))
        return x + self.narrow(F.gelu(self.wide(self.norms[1](x))))


class LanguageModel(LightningModule):
    """Next-token cross entropy and AdamW, whose rate falls linearly to zero at the end of training."""

    def __init__(self, vocabulary: int, length: int, size: Size, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.tokens = nn.Embedding(vocabulary, size.features)
        self.places = nn.Embedding(length, size.features)
        self.blocks = nn.Sequential(*(Block(size.features, size.heads) for _ in range(size.blocks)))
        self.norm = nn.LayerNorm(size.features)
        self.head = nn.Linear(size.features, vocabulary, bias=False)
        for weight in (self.tokens.weight, self.places.weight, self.head.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        tokens, labels = batch[:2]
        logits = self(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)

    @torch.no_grad()
    def held_out_loss(self, rows: InMemory) -> float:
        """Mean over all labels."""
        parts = zip(*(torch.split(column, 64) for column in rows.columns[:2]), strict=True)
        total = count = 0.0
        for tokens, labels in parts:
            wanted = labels[:, 1:].flatten()
            logits = self(tokens[:, :-1]).flatten(0, 1)
            total += float(F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum"))
            count += float((wanted != IGNORED).sum())
        return total / count if count else math.nan

    def configure_optimizers(self) -> Any:
        return scheduled(self, torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.01), decay=True)


def pretrained(vocabulary: int, text: Tensor, size: Size, rate: float, steps: int, seed: int) -> dict[str, Any]:
    """Weights after some steps of 32 rows of general text; they depend on the seed alone."""
    seed_everything(WEIGHTS + seed, verbose=False)
    module = LanguageModel(vocabulary, text.shape[1], size, rate)
    trainer = Trainer(**QUIET, max_epochs=-1, max_steps=steps)
    trainer.fit(module, loader(InMemory(text, text), 32, ORDER + seed))
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
