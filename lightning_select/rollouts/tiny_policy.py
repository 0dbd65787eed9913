"""A policy small enough to learn from rewards in minutes on a processor: characters are its tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.generation import (
    Language,
    check_lengths,
    check_request,
    evaluated,
    generate,
    padded,
)
from lightning_select.rollouts.policy import Attempts
from lightning_select.rollouts.tiny_transformer import Cache, TinyTransformer
from lightning_select.rollouts.token_choice import check_temperature
from lightning_select.signals.traceless.casts import fresh_casts
from lightning_select.types import Float, Int

__all__ = ["TinyPolicy"]

END = 0


class TinyPolicy(nn.Module):
    """A small transformer over single characters, and one token more that ends a completion.

    Weights are drawn from torch's global generator when it is made, as those of any module; nothing else touches that.
    It has no dropout, so training and evaluation mode do the same. Under bf16 autocast, log-probabilities noted
    while sampling and evaluated later differ by some hundredths.

    Args:
        alphabet: Characters that prompts and completions are made of.
        width: Size of the hidden states, a multiple of ``heads``.
        depth: Number of blocks.
        heads: Number of attention heads.
        context: Characters of prompt and completion at most.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> from lightning_select.rollouts.uniforms import attempt_keys
        >>> policy, keys = TinyPolicy(), attempt_keys(0, 0, torch.arange(2), 3)
        >>> len(policy.sample(["1+2=", "10+20="], 3, keys, max_tokens=4, temperature=1.0))
        6
    """

    def __init__(
        self,
        alphabet: str = "0123456789+-*= ",
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        context: int = 64,
    ) -> None:
        super().__init__()
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise ArgumentError(f"TinyPolicy.alphabet must hold one or more characters, each once, got {alphabet!r}.")
        for name, value in {"width": width, "depth": depth, "heads": heads}.items():
            if value < 1:
                raise ArgumentError(f"TinyPolicy.{name} must be 1 or more, got {value}.")
        if context < 2:
            raise ArgumentError(f"TinyPolicy.context must be 2 or more, a prompt and one token, got {context}.")
        if width % heads:
            raise ArgumentError(f"TinyPolicy.width must be a multiple of the {heads} heads, got {width}.")
        self.alphabet = alphabet
        self.context = context
        self.model = TinyTransformer(1 + len(alphabet), width, depth, heads, context)
        self._number = {character: number for number, character in enumerate(alphabet, start=END + 1)}

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        attempts: int,
        keys: Int[Tensor, "rows"],
        *,
        max_tokens: int,
        temperature: float,
    ) -> Attempts:
        """Attempts at each prompt, see `Policy`. The host waits for the device once per token.

        Raises:
            ArgumentError: A prompt is empty, too long or holds unknown characters, or another value is out of range.
        """
        check_request("TinyPolicy", prompts, attempts, keys, max_tokens, temperature)
        tokens = self._prompts(prompts)
        language = Language((END,), END, self.context, self._decode)
        keys = keys.to(self._device)
        with fresh_casts():
            decoder = _Decoder(self.model)
            return generate(decoder, language, tokens, attempts, keys, max_tokens=max_tokens, temperature=temperature)

    def log_probs(self, attempts: Attempts, *, temperature: float) -> Float[Tensor, "rows length"]:
        """Log-probability of each token of the completions now, with a gradient; 0 at the padding."""
        check_temperature("TinyPolicy.log_probs", temperature)
        with fresh_casts():
            return evaluated(self._read, attempts.to(self._device), temperature)

    def reference(self) -> TinyPolicy:
        """A frozen copy."""
        held = copy.deepcopy(self).requires_grad_(False).eval()
        held.zero_grad()
        return held

    def supervise(self, prompts: Sequence[str], completions: Sequence[str]) -> Float[Tensor, ""]:
        """Mean over all tokens of the completions, the end among them, of minus the log-probability.

        Raises:
            ArgumentError: There are not as many completions as prompts, or a text is too long or holds unknown
                characters.
        """
        if len(prompts) != len(completions) or not prompts:
            got = f"{len(prompts)} and {len(completions)}"
            raise ArgumentError(f"TinyPolicy.supervise must be given a completion for each prompt, got {got}.")
        before = self._prompts(prompts)
        after = [[*self._encode(text), END] for text in completions]
        longest = max(len(prompt) + len(text) for prompt, text in zip(before, after, strict=True))
        if longest > self.context:
            rule = f"a prompt, its completion and the end within the context of {self.context} tokens"
            raise ArgumentError(f"TinyPolicy.supervise must be given {rule}, got {longest}.")
        prompt_tokens, prompt_mask = padded(before, END, self._device, left=True)
        tokens, mask = padded(after, END, self._device, left=False)
        nothing, ended = torch.zeros(tokens.shape, device=self._device), torch.ones_like(mask[:, 0])
        given = Attempts(prompt_tokens, prompt_mask, tokens, mask, nothing, ended, tuple(completions))
        return -self.log_probs(given, temperature=1.0).sum() / mask.sum()

    @property
    def _device(self) -> torch.device:
        return self.model.embed.weight.device

    def _read(self, tokens: Tensor, positions: Tensor, there: Tensor, keep: int) -> Tensor:
        logits: Tensor = self.model(tokens, positions, there, keep=keep)
        return logits

    def _prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        tokens = [self._encode(prompt) for prompt in prompts]
        check_lengths("TinyPolicy", prompts, tokens, self.context)
        return tokens

    def _encode(self, text: str) -> list[int]:
        unknown = sorted(set(text) - set(self._number))
        if unknown:
            got = f"{''.join(unknown)!r} in {text!r}"
            raise ArgumentError(f"TinyPolicy.alphabet must hold every character of a text, got {got}.")
        return [self._number[character] for character in text]

    def _decode(self, tokens: list[int]) -> str:
        return "".join(self.alphabet[token - END - 1] for token in tokens)


class _Decoder:
    """The transformer with what it has read."""

    def __init__(self, model: TinyTransformer) -> None:
        self._model = model
        self._cache = Cache()

    def read(self, tokens: Tensor, positions: Tensor, there: Tensor) -> Tensor:
        logits: Tensor = self._model(tokens, positions, there, self._cache, keep=1)
        return logits[:, -1]

    def repeat(self, times: int) -> None:
        self._cache.repeat(times)
