"""A policy without a network in between: a table of logits, prompt by prompt, and attempts of one or two letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_select.rollouts.grpo import GRPO
from lightning_select.rollouts.policy import Attempts
from lightning_select.rollouts.token_choice import choose, token_log_probs
from lightning_select.rollouts.uniforms import uniforms

LETTERS = "abcd"
STOP = len(LETTERS)


class Table(nn.Module):
    """Logits of the letters and of the stop token for each prompt ``"0"``, ``"1"``, ..., the same at every place."""

    def __init__(self, prompts: int = 16, start: Tensor | None = None) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(prompts, STOP + 1) if start is None else start.clone())

    def sample(
        self, prompts: Sequence[str], attempts: int, keys: Tensor, *, max_tokens: int, temperature: float
    ) -> Attempts:
        index = torch.tensor([int(prompt) for prompt in prompts]).repeat_interleave(attempts)
        alive, tokens, masks, chances = torch.ones(len(index), dtype=torch.bool), [], [], []
        for position in range(max_tokens):
            token, chance = choose(self.logits[index], uniforms(keys, position), temperature)
            tokens.append(torch.where(alive, token, STOP))
            chances.append(torch.where(alive, chance, 0.0))
            masks.append(alive)
            alive = alive & (token != STOP)
        drawn, mask = torch.stack(tokens, 1), torch.stack(masks, 1)
        kept = mask & (drawn != STOP)
        texts = ["".join(LETTERS[t] for t in line[there]) for line, there in zip(drawn, kept, strict=True)]
        whole = index[:, None]
        return Attempts(whole, whole >= 0, drawn, mask, torch.stack(chances, 1), ~alive, tuple(texts))

    def log_probs(self, attempts: Attempts, *, temperature: float) -> Tensor:
        logits = self.logits[attempts.prompt_tokens[:, -1]][:, None].expand(*attempts.tokens.shape, -1)
        return torch.where(attempts.mask, token_log_probs(logits, attempts.tokens, temperature), 0.0)

    def reference(self) -> Table:
        return Table(start=self.logits.detach()).requires_grad_(False)


class Prompts(Dataset[Mapping[str, Any]]):
    """Prompts ``"0"``, ``"1"``, ... whose right answer is a letter."""

    def __init__(self, count: int = 16) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return {"prompt": str(row), "answer": LETTERS[row % len(LETTERS)], "row": row}


def right(prompts: Sequence[str], completions: Sequence[str], batch: Mapping[str, Any]) -> list[float]:
    """1 where the completion starts with the letter that is asked for."""
    return [float(text.startswith(answer)) for text, answer in zip(completions, batch["answer"], strict=True)]


def module(prompts: int = 16, start: Tensor | None = None, **arguments: Any) -> GRPO:
    settings: dict[str, Any] = {"attempts": 4, "max_tokens": 1, "lr": 0.05, "show_every": 0, "pass_at": (1, 2)}
    return GRPO(Table(prompts, start), arguments.pop("reward", right), **(settings | arguments))


def loader(prompts: int = 16, size: int = 4, **arguments: Any) -> DataLoader[Any]:
    return DataLoader(Prompts(prompts), size, **arguments)


def trainer(*callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    return pl.Trainer(callbacks=list(callbacks), **(quiet | arguments))


class Steps(pl.Callback):
    """Notes the counters after every batch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, int]] = []
        self.rewards: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(pl_module.counters.state_dict())
        self.rewards.append(outputs["reward"])
