"""The tokenizer of a model, or one of bytes that needs no file."""

from __future__ import annotations

from typing import Any

from lightning_select import language_models

__all__ = ["load_tokenizer"]


def load_tokenizer(name_or_path: str | None) -> Any:
    """The tokenizer of that folder or hub id; ``None`` is the bytes of the text and three special tokens (259 in all).

    Raises:
        ConfigurationError: transformers is not installed, or cannot load it.
    """
    return language_models.load_tokenizer(name_or_path, "data.tokenizer", "data=instructions")
