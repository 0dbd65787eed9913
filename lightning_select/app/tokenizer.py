"""The tokenizer of a model, or one of bytes that needs no file."""

from __future__ import annotations

from typing import Any

from lightning_select.errors import ConfigurationError

__all__ = ["load_tokenizer", "needs_llm", "start_tokens"]


def load_tokenizer(name_or_path: str | None) -> Any:
    """The tokenizer of that folder or hub id; ``None`` is the bytes of the text and three special tokens (259 in all).

    Raises:
        ConfigurationError: transformers is not installed, or cannot load it.
    """
    try:
        import transformers
    except ImportError as error:
        raise needs_llm("data=instructions", "transformers") from error
    if name_or_path is None:
        return transformers.ByT5Tokenizer(extra_ids=0)
    try:
        return transformers.AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(
            "data.tokenizer must be a folder or a hub id of a tokenizer that transformers can load, got "
            f"{name_or_path!r}: {reason}"
        ) from error


def start_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text, where it knows a token for that."""
    start = getattr(tokenizer, "bos_token_id", None)
    if start is None:
        return []
    return [start] if tokenizer("a", verbose=False)["input_ids"][:1] == [start] else []


def needs_llm(what: str, package: str) -> ConfigurationError:
    """What to tell someone who lacks a package of the extra."""
    return ConfigurationError(f'{what} must have {package}, got none installed: pip install "lightning-select[llm]"')
