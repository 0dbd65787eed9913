"""What training on rewards asks of a policy: attempts at prompts, and how likely it finds an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_select.types import Bool, Float, Int

__all__ = ["Attempts", "Policy"]


@dataclass(frozen=True)
class Attempts:
    """Completions of prompts, one a row.

    Attributes:
        prompt_tokens: Tokens of the prompts, padded on the left.
        prompt_mask: Which of them are no padding.
        tokens: Tokens of the completions, the stop token included, padded on the right.
        mask: Which of them were sampled.
        log_probs: Log-probability of each when it was sampled, at the temperature of that time; 0 at the padding.
        ended: Did the completion end by itself, and not at the limit of its length?
        texts: The completions without their stop tokens.
    """

    prompt_tokens: Int[Tensor, "rows prompt"]
    prompt_mask: Bool[Tensor, "rows prompt"]
    tokens: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows length"]
    log_probs: Float[Tensor, "rows length"]
    ended: Bool[Tensor, "rows"]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Attempts:
        """These rows, as wide as they were."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.tokens.device)
        tensors = {name: value.index_select(0, index) for name, value in self.tensors().items()}
        return Attempts(**tensors, texts=tuple(self.texts[row] for row in rows))

    def to(self, device: torch.device | str) -> Attempts:
        """The same on another device."""
        return Attempts(**{name: value.to(device) for name, value in self.tensors().items()}, texts=self.texts)

    def tensors(self) -> dict[str, Tensor]:
        """Every field that is a tensor."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "texts"}


@runtime_checkable
class Policy(Protocol):
    """A language model that learns from rewards; an ``nn.Module``, whose parameters are trained."""

    def sample(
        self,
        prompts: Sequence[str],
        attempts: int,
        keys: Int[Tensor, "rows"],
        *,
        max_tokens: int,
        temperature: float,
    ) -> Attempts:
        """Attempts at each prompt, those at one prompt next to each other (rows = prompts times attempts); no gradient.

        Args:
            prompts: The prompts.
            attempts: How many at each of them.
            keys: What the randomness of each row is made of: the same key gives the same draws, whatever the others.
            max_tokens: Tokens of a completion at most.
            temperature: Logits are divided by it; 0 takes the likeliest token.
        """

    def log_probs(self, attempts: Attempts, *, temperature: float) -> Float[Tensor, "rows length"]:
        """Log-probability of each token of the completions now, with a gradient; 0 at the padding."""

    def reference(self) -> Any:
        """A policy that stays as this one is now: only its ``log_probs`` are asked for."""
