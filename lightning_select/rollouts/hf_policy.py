"""A policy made of a causal language model of transformers, with or without adapters."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_select import language_models
from lightning_select.errors import ArgumentError
from lightning_select.rollouts import hf_loading, hf_text
from lightning_select.rollouts.generation import (
    Language,
    check_lengths,
    check_request,
    evaluated,
    generate,
)
from lightning_select.rollouts.hf_decoder import HFDecoder, evaluating, read_all
from lightning_select.rollouts.policy import Attempts
from lightning_select.rollouts.token_choice import check_temperature
from lightning_select.signals.traceless.casts import fresh_casts
from lightning_select.types import Float, Int

__all__ = ["HFPolicy", "WithoutAdapters"]


class HFPolicy(nn.Module):
    """Batched sampling with a cache of keys and values, left padding, stop tokens, temperature and adapters.

    Every kind of dropout is off, in training mode too: log-probabilities noted while sampling must be comparable with
    those evaluated later. They agree to rounding: about 1e-6 in float32, some hundredths in bfloat16 (of the weights or
    by autocast). For the same reason an attempt depends on its key alone only as far as rounding goes: a batch of
    another shape may add up its numbers in another order, and a draw that lies within that of a border falls on the
    other side.

    Args:
        name_or_path: Folder or hub id of a pretrained model.
        architecture: In its place, what is built with random weights: ``model_type`` and other fields of a config of
            transformers.
        tokenizer: Folder or hub id of a tokenizer, or a tokenizer; ``None`` is that of the model, and for a model with
            random weights the bytes of the text.
        lora: ``r`` (the rank; ``None`` trains all weights), ``alpha`` and ``target_modules`` of PEFT. With a rank, only
            the adapters are trained, and the reference is the model without them.
        dtype: Precision in which the weights are kept; ``None`` keeps that of the loaded model.
        stop: Texts of one token, or tokens, that end a completion beside the end of text of model and tokenizer.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        chat: Does each prompt become the message of a user, in the template of the tokenizer?

    Raises:
        ArgumentError: A value is out of range, or no token is known to end a completion.
        ConfigurationError: A package is not installed, or the model or tokenizer cannot be made.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        architecture: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
        lora: Mapping[str, Any] | None = None,
        dtype: str | None = "float32",
        stop: Sequence[str | int] | str | int | None = None,
        gradient_checkpointing: bool = False,
        chat: bool = False,
    ) -> None:
        super().__init__()
        if (name_or_path is None) == (architecture is None):
            got = "neither" if architecture is None else "both"
            raise ArgumentError(f"HFPolicy must be given one of name_or_path and architecture, got {got}.")
        kind = language_models.floating(dtype, "HFPolicy")
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = hf_text.load_tokenizer(tokenizer or name_or_path)
        if chat and getattr(tokenizer, "chat_template", None) is None:
            raise ArgumentError("HFPolicy.chat must be false, as the tokenizer has no template of a chat, got True.")
        self.tokenizer = tokenizer
        self.chat = chat
        self._known = 1 + max(tokenizer.get_vocab().values())
        model = (
            hf_loading.load_model(name_or_path)
            if name_or_path is not None
            else hf_loading.build_model(architecture or {}, self._known)
        )
        size = model.get_input_embeddings().num_embeddings
        if self._known > size:
            rule = f"must have no more than the {size} tokens that the model knows"
            raise ArgumentError(f"HFPolicy.tokenizer {rule}, got {self._known}.")
        extra = [stop] if isinstance(stop, (str, int)) else list(stop or ())
        self.stop = hf_text.stop_tokens(tokenizer, model, name_or_path is not None, extra)
        self.context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._takes = frozenset(inspect.signature(model.forward).parameters)
        if kind is not None:
            model = model.to(kind)
        if gradient_checkpointing:
            language_models.with_checkpointing(model)
        self.model = hf_loading.with_adapters(model, lora or {})
        self._adapted = self.model is not model
        self.train()  # loaded models come in evaluation mode, and a Trainer leaves modes as they are

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
            ArgumentError: A prompt is empty or too long, or another value is out of range.
            ConfigurationError: The model keeps no cache of what it has read.
        """
        check_request("HFPolicy", prompts, attempts, keys, max_tokens, temperature)
        tokens = [self._encode(prompt) for prompt in prompts]
        check_lengths("HFPolicy", prompts, tokens, self.context)
        language = Language(self.stop, self.stop[0], self.context, self._decode)
        keys = keys.to(self._device)
        with evaluating(self.model), fresh_casts():
            decoder = HFDecoder(self.model, self._takes)
            return generate(decoder, language, tokens, attempts, keys, max_tokens=max_tokens, temperature=temperature)

    def log_probs(self, attempts: Attempts, *, temperature: float) -> Float[Tensor, "rows length"]:
        """Log-probability of each token of the completions now, with a gradient; 0 at the padding."""
        check_temperature("HFPolicy.log_probs", temperature)
        with fresh_casts():
            return evaluated(self._read, attempts.to(self._device), temperature)

    def reference(self) -> Any:
        """The model without its adapters, which takes no memory, or a frozen copy where there are none."""
        if self._adapted:
            return WithoutAdapters(self)
        held = copy.deepcopy(self).requires_grad_(False).eval()
        held.zero_grad()
        return held

    @property
    def _device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def _read(self, tokens: Tensor, positions: Tensor, there: Tensor, keep: int) -> Tensor:
        return read_all(self.model, self._takes, tokens, positions, there, keep)

    def _encode(self, prompt: str) -> list[int]:
        return hf_text.encoded(self.tokenizer, prompt, self.chat)

    def _decode(self, tokens: list[int]) -> str:
        return hf_text.decoded(self.tokenizer, tokens, self._known)


class WithoutAdapters:
    """A policy as it was before its adapters learned anything. It holds no weights of its own, and is no module.

    Args:
        policy: A policy with adapters.
    """

    def __init__(self, policy: HFPolicy) -> None:
        self._policy = policy

    @torch.no_grad()
    def log_probs(self, attempts: Attempts, *, temperature: float) -> Float[Tensor, "rows length"]:
        """Log-probability of each token of the completions, without a gradient; 0 at the padding."""
        with self._policy.model.disable_adapter():
            return self._policy.log_probs(attempts, temperature=temperature)
