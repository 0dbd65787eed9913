"""From texts to tokens and back, with a tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_select import language_models
from lightning_select.errors import ArgumentError

__all__ = ["decoded", "encoded", "load_tokenizer", "stop_tokens"]


def load_tokenizer(name_or_path: str | None) -> Any:
    """The tokenizer of a folder or hub id; ``None`` is the bytes of a text and three special tokens (259 in all)."""
    return language_models.load_tokenizer(name_or_path, "HFPolicy.tokenizer", "HFPolicy")


def encoded(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    """Tokens of a prompt: the start that the tokenizer itself puts before a text, and no end; or as a user's message.

    A template of a chat writes its own start.
    """
    if not chat:
        return [*language_models.start_tokens(tokenizer), *_plain(tokenizer, prompt)]
    message = [{"role": "user", "content": prompt}]
    return _plain(tokenizer, tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


def decoded(tokenizer: Any, tokens: Sequence[int], known: int) -> str:
    """Text of a completion. A model may have more tokens than its tokenizer; those stand for no text."""
    said = [token for token in tokens if token < known]
    text: str = tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def stop_tokens(tokenizer: Any, model: Any, pretrained: bool, extra: Sequence[str | int]) -> tuple[int, ...]:
    """Tokens that end a completion: those the tokenizer and a pretrained model know, and the extra ones.

    What the config of a model with random weights says about it is the default of its kind, for another tokenizer. So
    is, in any config, a token that the model does not have.
    """
    size = model.get_input_embeddings().num_embeddings
    wanted = [_one_token(tokenizer, text) for text in extra]
    strange = [token for token in wanted if not 0 <= token < size]
    if strange:
        raise ArgumentError(f"HFPolicy.stop must name tokens from 0 to {size - 1}, which the model has, got {strange}.")
    known = [tokenizer]
    if pretrained:
        known += [model.config, getattr(model, "generation_config", None)]
    ends = [token for owner in known for token in _several(getattr(owner, "eos_token_id", None))]
    found = {*wanted, *(token for token in ends if 0 <= token < size)}
    if not found:
        raise ArgumentError(
            "HFPolicy.stop must name a token that ends a completion, as neither the tokenizer nor the model has one, "
            'got none. For example stop=["\\n"], or the number of a token.'
        )
    return tuple(sorted(found))


def _one_token(tokenizer: Any, text: str | int) -> int:
    if not isinstance(text, str):
        return int(text)
    tokens = _plain(tokenizer, text)
    if len(tokens) != 1:
        raise ArgumentError(f"HFPolicy.stop must name texts of one token each, got {text!r} of tokens {tokens}.")
    return tokens[0]


def _several(token: Any) -> list[int]:
    """Configs hold one, several or none."""
    return [] if token is None else list(token) if isinstance(token, (list, tuple)) else [token]


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
