"""Models and tokenizers of transformers: loaded, built, with adapters, and with errors in the words of who asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightning_select.errors import ArgumentError, ConfigurationError

__all__ = [
    "build_model",
    "first_line",
    "floating",
    "load_model",
    "load_tokenizer",
    "needs_llm",
    "start_tokens",
    "transformers_package",
    "with_checkpointing",
    "with_lora",
]

Settle = Callable[[Any], Any]
"""From a config of transformers to the config that is used."""


def load_tokenizer(name_or_path: str | None, key: str, what: str) -> Any:
    """The tokenizer of a folder or hub id; ``None`` is the bytes of a text and three special tokens (259 in all).

    Args:
        name_or_path: The folder or id.
        key: What the messages call that argument.
        what: What needs transformers.

    Raises:
        ConfigurationError: transformers is not installed, or cannot load it.
    """
    transformers = transformers_package(what)
    if name_or_path is None:
        return transformers.ByT5Tokenizer(extra_ids=0)
    try:
        return transformers.AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{key} must be a folder or a hub id of a tokenizer that transformers can load, got {name_or_path!r}: "
            f"{first_line(error)}"
        ) from error


def start_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text, where it knows a token for that."""
    start = getattr(tokenizer, "bos_token_id", None)
    if start is None:
        return []
    return [start] if tokenizer("a", verbose=False)["input_ids"][:1] == [start] else []


def load_model(name_or_path: str, owner: str, what: str, settle: Settle | None = None) -> Any:
    """A pretrained causal language model, by its config as ``settle`` leaves it.

    Raises:
        ConfigurationError: transformers is not installed, or cannot load it.
    """
    transformers = transformers_package(what)
    try:
        if settle is None:
            return transformers.AutoModelForCausalLM.from_pretrained(name_or_path)
        config = settle(transformers.AutoConfig.from_pretrained(name_or_path))
        return transformers.AutoModelForCausalLM.from_pretrained(name_or_path, config=config)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{owner}.name_or_path must be a folder or a hub id of a causal language model that transformers can load, "
            f"got {name_or_path!r}: {first_line(error)}"
        ) from error


def build_model(
    architecture: Mapping[str, Any],
    owner: str,
    what: str,
    settle: Settle | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Any:
    """A model with random weights; a Llama, if nothing else is said.

    Raises:
        ConfigurationError: transformers is not installed, or knows no such model.
    """
    transformers = transformers_package(what)
    fields = {"model_type": "llama", **(defaults or {}), **architecture}
    try:
        config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        return transformers.AutoModelForCausalLM.from_config(config if settle is None else settle(config))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{owner}.architecture must describe a causal language model of transformers, got {dict(architecture)}: "
            f"{first_line(error)}"
        ) from error


def floating(dtype: str | None, owner: str) -> torch.dtype | None:
    """The floating dtype of that name.

    Raises:
        ArgumentError: There is none.
    """
    kind = None if dtype is None else getattr(torch, dtype, None)
    if dtype is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ArgumentError(f"{owner}.dtype must be null or the name of a floating dtype of torch, got {dtype!r}.")
    return kind


def with_checkpointing(model: Any) -> None:
    """Compute activations twice; under the present name of that, or the older one."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def with_lora(model: Any, lora: Mapping[str, Any], defaults: Mapping[str, Any], key: str, what: str) -> Any:
    """The model with adapters, which alone are trained; the model itself without a rank ``r``.

    Raises:
        ConfigurationError: PEFT is not installed, or the settings do not fit the model.
    """
    chosen = {**defaults, **lora}
    if chosen["r"] is None:
        return model
    try:
        import peft
    except ImportError as error:
        raise needs_llm(what, "peft") from error
    try:
        settings = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=chosen["r"],
            lora_alpha=chosen["alpha"],
            lora_dropout=chosen.get("dropout", 0.0),
            target_modules=chosen["target_modules"],
        )
        return peft.get_peft_model(model, settings)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{key} must fit the model and PEFT, got {dict(lora)}: {first_line(error)}") from error


def transformers_package(what: str) -> Any:
    """The package, where it is installed.

    Raises:
        ConfigurationError: It is not.
    """
    try:
        import transformers
    except ImportError as error:
        raise needs_llm(what, "transformers") from error
    return transformers


def needs_llm(what: str, package: str) -> ConfigurationError:
    """What to tell someone who lacks a package of the extra."""
    return ConfigurationError(f'{what} must have {package}, got none installed: pip install "lightning-select[llm]"')


def first_line(error: Exception) -> str:
    """What an error says, without the advice below it."""
    return next(iter(str(error).splitlines()), type(error).__name__)
