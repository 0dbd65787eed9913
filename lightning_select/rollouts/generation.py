"""Attempts from anything that reads tokens and gives logits: the loop, the limits, and what every policy checks.

Each prompt is read once, and what was read is repeated for its attempts. All rows then go on together, one token at a
time; a row that has ended takes in padding until the last one has. Whether one is left is looked at after each token:
on an accelerator the host waits there, as a loop whose end depends on what was drawn must.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.policy import Attempts
from lightning_select.rollouts.token_choice import check_temperature, choose, token_log_probs
from lightning_select.rollouts.uniforms import uniforms
from lightning_select.types import Bool, Float, Int

__all__ = [
    "Decoder",
    "Language",
    "Reader",
    "check_lengths",
    "check_request",
    "evaluated",
    "generate",
    "padded",
    "places",
]

Reader = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""From tokens, their places, which of them are there, and how many of the last places to keep, to logits."""


@runtime_checkable
class Decoder(Protocol):
    """A model that remembers what it has read."""

    def read(
        self, tokens: Int[Tensor, "rows new"], positions: Int[Tensor, "rows new"], there: Bool[Tensor, "rows all"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Logits after the last of these tokens, which follow on those read before."""

    def repeat(self, times: int) -> None:
        """Go on with every row that often, its copies next to each other."""


@dataclass(frozen=True)
class Language:
    """What tokens mean.

    Attributes:
        stop: Tokens that end a completion.
        filler: Token at padded places; any that the model knows.
        context: Tokens of prompt and completion at most; ``None`` is no limit.
        decode: From tokens to text.
    """

    stop: tuple[int, ...]
    filler: int
    context: int | None
    decode: Callable[[list[int]], str]


def generate(
    decoder: Decoder,
    language: Language,
    prompts: Sequence[Sequence[int]],
    attempts: int,
    keys: Int[Tensor, "rows"],
    *,
    max_tokens: int,
    temperature: float,
) -> Attempts:
    """Attempts at prompts, which are given as tokens; ``keys`` are on the device of the model."""
    prompt_tokens, prompt_mask = padded(prompts, language.filler, keys.device, left=True)
    logits = decoder.read(prompt_tokens, places(prompt_mask), prompt_mask).repeat_interleave(attempts, 0)
    decoder.repeat(attempts)
    rooms = [_room(prompt, language.context, max_tokens) for prompt in prompts]
    prompt_tokens, there = prompt_tokens.repeat_interleave(attempts, 0), prompt_mask.repeat_interleave(attempts, 0)
    room = torch.tensor(rooms, device=keys.device).repeat_interleave(attempts)
    lengths = there.sum(1, keepdim=True)
    last = lengths + room.unsqueeze(1) - 1
    stop = torch.tensor(language.stop, device=keys.device)
    going = torch.ones_like(keys, dtype=torch.bool)
    ended = torch.zeros_like(going)
    drawn: list[Tensor] = []
    sampled: list[Tensor] = []
    noted: list[Tensor] = []
    for step in range(max(rooms)):
        tokens, log_probs = choose(logits, uniforms(keys, step), temperature)
        drawn.append(torch.where(going, tokens, language.filler))
        noted.append(torch.where(going, log_probs, 0.0))
        sampled.append(going)
        stops = torch.isin(tokens, stop)
        ended = ended | (going & stops)
        going = going & ~stops & (step + 1 < room)
        if not going.any():
            break
        there = torch.cat([there, torch.ones_like(there[:, :1])], 1)
        logits = decoder.read(drawn[-1].unsqueeze(1), (lengths + step).minimum(last), there)
    fields = {"tokens": drawn, "mask": sampled, "log_probs": noted}
    stacked = {name: torch.stack(columns, 1) for name, columns in fields.items()}
    texts = _texts(stacked["tokens"], stacked["mask"], ended, language.decode)
    mask = prompt_mask.repeat_interleave(attempts, 0)
    return Attempts(prompt_tokens=prompt_tokens, prompt_mask=mask, ended=ended, texts=texts, **stacked)


def evaluated(reader: Reader, attempts: Attempts, temperature: float) -> Float[Tensor, "rows length"]:
    """Log-probability of each token of the completions, 0 at the padding; logits are made for completions only."""
    tokens = torch.cat([attempts.prompt_tokens, attempts.tokens], 1)[:, :-1]
    there = torch.cat([attempts.prompt_mask, attempts.mask], 1)[:, :-1]
    logits = reader(tokens, places(there), there, attempts.tokens.shape[1])
    return torch.where(attempts.mask, token_log_probs(logits, attempts.tokens, temperature), 0.0)


def padded(
    texts: Sequence[Sequence[int]], filler: int, device: torch.device, *, left: bool
) -> tuple[Int[Tensor, "rows width"], Bool[Tensor, "rows width"]]:
    """Texts of tokens as one table, and where it is no padding."""
    width = max(map(len, texts))
    rows, mask = [], []
    for text in texts:
        missing = width - len(text)
        fill, hidden, shown = [filler] * missing, [False] * missing, [True] * len(text)
        rows.append([*fill, *text] if left else [*text, *fill])
        mask.append(hidden + shown if left else shown + hidden)
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def places(there: Bool[Tensor, "rows width"]) -> Int[Tensor, "rows width"]:
    """Place of each token in its text, from 0 on; that of padding is of no meaning, but one that the text has."""
    return (there.long().cumsum(1) - 1).clamp_(min=0)


def check_request(
    owner: str, prompts: Sequence[str], attempts: int, keys: Tensor, max_tokens: int, temperature: float
) -> None:
    """Raise an ArgumentError where arguments of ``sample`` break their rules."""
    if isinstance(prompts, str) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ArgumentError(f"{owner}.sample.prompts must be one or more texts in a list, got {prompts!r}.")
    if attempts < 1:
        raise ArgumentError(f"{owner}.sample.attempts must be 1 or more, got {attempts}.")
    if keys.shape != (len(prompts) * attempts,):
        rule = f"of shape ({len(prompts) * attempts},), one for each attempt at each prompt"
        raise ArgumentError(f"{owner}.sample.keys must be {rule}, got {tuple(keys.shape)}.")
    if max_tokens < 1:
        raise ArgumentError(f"{owner}.sample.max_tokens must be 1 or more, got {max_tokens}.")
    check_temperature(f"{owner}.sample", temperature)


def check_lengths(owner: str, prompts: Sequence[str], tokens: Sequence[Sequence[int]], context: int | None) -> None:
    """Raise an ArgumentError for a prompt that is empty, or that leaves no room for one token."""
    for prompt, held in zip(prompts, tokens, strict=True):
        if not prompt or not held or (context is not None and len(held) >= context):
            rule = "1 or more tokens" if context is None else f"1 to {context - 1} tokens"
            room = "" if context is None else f", as one more must fit into the context of {context}"
            start = prompt if len(prompt) <= 60 else f"{prompt[:60]}..."
            got = f"{len(held) if prompt else 0} tokens: {start!r}"
            raise ArgumentError(f"{owner}.prompts must have {rule}{room}, got {got}.")


def _room(prompt: Sequence[int], context: int | None, max_tokens: int) -> int:
    """Tokens that may follow."""
    return max_tokens if context is None else min(max_tokens, context - len(prompt))


def _texts(tokens: Tensor, mask: Tensor, ended: Tensor, decode: Callable[[list[int]], str]) -> tuple[str, ...]:
    lengths = (mask.sum(1) - ended.long()).tolist()
    return tuple(decode(row[:length]) for row, length in zip(tokens.tolist(), lengths, strict=True))
