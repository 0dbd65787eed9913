"""Small causal language models whose steps treat their logits in every way that people do."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORDS, WIDTH, TOKENS, ROWS = 300, 16, 12, 6
IGNORED = -100


def sentences(seed: int = 0, rows: int = ROWS, *, left: bool = False) -> dict[str, Tensor]:
    """Token ids with labels: prompt and padding masked, rows of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (rows, TOKENS), generator=generator)
    labels = ids.clone()
    for row in range(rows):
        length = TOKENS - row % 4
        pad = slice(0, TOKENS - length) if left else slice(length, TOKENS)
        ids[row, pad], labels[row, pad] = 0, IGNORED
        first = TOKENS - length if left else 0
        labels[row, first : first + 2 + row % 3] = IGNORED
    return {"input_ids": ids, "labels": labels}


class CausalLM(pl.LightningModule):
    """Reads tokens, predicts the next; the others change what happens between head and loss."""

    bias = False

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.mix = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=self.bias)
        self.forwards = 0

    def hidden(self, ids: Tensor) -> Tensor:
        return self.mix(self.embed(ids))[0]

    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        shifted = logits[:, :-1, :].contiguous()
        return F.cross_entropy(shifted.view(-1, shifted.size(-1)), labels[:, 1:].reshape(-1), ignore_index=IGNORED)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(self.head(self.hidden(batch["input_ids"])), batch["labels"])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Biased(CausalLM):
    bias = True


class Tied(CausalLM):
    def head(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.weight)


class TiedByProduct(CausalLM):
    def head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.embed.weight.t()


class Scaled(CausalLM):
    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden) / 0.7


class ScaledInPlace(CausalLM):
    def head(self, hidden: Tensor) -> Tensor:
        logits = self.lm_head(hidden).float()
        logits.div_(1.3)
        return logits


class ScaledPerToken(CausalLM):
    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden) * hidden.pow(2).mean(-1, keepdim=True).add(0.5).rsqrt()


class SoftCapped(CausalLM):
    def head(self, hidden: Tensor) -> Tensor:
        return 2.0 * torch.tanh(self.lm_head(hidden) / 2.0)


class PriorAdded(CausalLM):
    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden) + torch.linspace(-1, 1, WORDS)


class WordsMasked(CausalLM):
    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden).masked_fill(torch.arange(WORDS) % 7 == 0, -5.0)


class Adapted(Biased):
    """As PEFT puts LoRA on a head."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WORDS, bias=False)
        self.lm_head.requires_grad_(False)

    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden) + self.up(self.down(hidden)) * 2.0


class Mixture(CausalLM):
    def __init__(self) -> None:
        super().__init__()
        self.second, self.gate = nn.Linear(WIDTH, WORDS), nn.Linear(WIDTH, 1)

    def head(self, hidden: Tensor) -> Tensor:
        share = torch.sigmoid(self.gate(hidden))
        return share * self.lm_head(hidden) + (1 - share) * torch.tanh(self.second(hidden))


class ClassesSecond(CausalLM):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED)


class AnswersOnly(CausalLM):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        answers = labels[:, 1:] != IGNORED
        return F.cross_entropy(logits[:, :-1][answers], labels[:, 1:][answers])


class LabelsMadeInStep(CausalLM):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        ids = batch["input_ids"]
        labels = ids.masked_fill(ids == 0, IGNORED)
        return self.loss(self.head(self.hidden(ids)), labels)


class WideInside(CausalLM):
    """Has a hidden layer that is as wide as the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.back = nn.Linear(WIDTH, WORDS), nn.Linear(WORDS, WIDTH)

    def hidden(self, ids: Tensor) -> Tensor:
        return self.back(F.gelu(self.wide(super().hidden(ids))))


class AccuracyFirst(CausalLM):
    """Uses its logits before the loss: they have to be computed."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.hits = (logits.argmax(-1) == labels).float().mean()
        return super().loss(logits, labels)


class TwoHeads(CausalLM):
    """Two losses of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(WIDTH, WORDS)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        hidden = self.hidden(batch["input_ids"])
        return self.loss(self.lm_head(hidden), batch["labels"]) + self.loss(self.second(hidden), batch["labels"])


FOLLOWED = [
    *(
        CausalLM,
        Biased,
        Tied,
        TiedByProduct,
        Scaled,
        ScaledInPlace,
        ScaledPerToken,
        SoftCapped,
        PriorAdded,
        WordsMasked,
    ),
    *(Adapted, Mixture, ClassesSecond, AnswersOnly, LabelsMadeInStep, WideInside),
]
"""Whose heads are read without computing logits."""
