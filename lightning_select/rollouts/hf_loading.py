"""Models of transformers, made so that they do the same whenever they are asked.

Dropout of every kind is set to zero before a model is built. Log-probabilities noted while sampling are compared with
those of later forwards, and noise between the two would read as a policy that has changed. Unlike evaluation mode, it
stays off where gradient checkpointing computes layers again, which models do in training mode only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.rollouts.hf_text import first_line, needs_llm, transformers_package

__all__ = ["build_model", "floating", "load_model", "with_adapters", "with_checkpointing"]

NOISE = ("drop", "jitter")
"""In the names of fields that make a model do something else each time."""


def floating(dtype: str | None) -> torch.dtype | None:
    """The dtype of that name."""
    kind = None if dtype is None else getattr(torch, dtype, None)
    if dtype is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ArgumentError(f"HFPolicy.dtype must be null or the name of a floating dtype of torch, got {dtype!r}.")
    return kind


def load_model(name_or_path: str) -> Any:
    """A pretrained causal language model."""
    transformers = transformers_package()
    try:
        config = transformers.AutoConfig.from_pretrained(name_or_path)
        return transformers.AutoModelForCausalLM.from_pretrained(name_or_path, config=_without_noise(config))
    except (OSError, ValueError) as error:
        rule = "be a folder or a hub id of a causal language model that transformers can load"
        raise ConfigurationError(
            f"HFPolicy.name_or_path must {rule}, got {name_or_path!r}: {first_line(error)}"
        ) from error


def build_model(architecture: Mapping[str, Any], vocabulary: int) -> Any:
    """A model with random weights; the size of its vocabulary is that of the tokenizer if nothing else is said."""
    transformers = transformers_package()
    fields = {"vocab_size": vocabulary, "model_type": "llama"} | dict(architecture)
    try:
        config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        return transformers.AutoModelForCausalLM.from_config(_without_noise(config))
    except (ValueError, TypeError) as error:
        rule = "describe a causal language model of transformers"
        raise ConfigurationError(
            f"HFPolicy.architecture must {rule}, got {dict(architecture)}: {first_line(error)}"
        ) from error


def with_checkpointing(model: Any) -> None:
    """Compute activations twice; under the present name of that, or the older one."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def with_adapters(model: Any, lora: Mapping[str, Any]) -> Any:
    """The model with adapters, which alone are trained; the model itself without a rank."""
    known = {"r": None, "alpha": 16, "target_modules": "all-linear"}
    unknown = sorted(set(lora) - set(known))
    if unknown:
        rule = f"hold {', '.join(known)} and nothing else (no dropout)"
        raise ArgumentError(f"HFPolicy.lora must {rule}, got {', '.join(unknown)}.")
    chosen = known | dict(lora)
    if chosen["r"] is None:
        return model
    try:
        import peft
    except ImportError as error:
        raise needs_llm("HFPolicy.lora", "peft") from error
    try:
        settings = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=chosen["r"],
            lora_alpha=chosen["alpha"],
            target_modules=chosen["target_modules"],
        )
        return peft.get_peft_model(model, settings)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"HFPolicy.lora must fit the model and PEFT, got {dict(lora)}: {first_line(error)}"
        ) from error


def _without_noise(config: Any) -> Any:
    """The config, and those of its parts, with every rate of noise at zero."""
    for name, value in vars(config).items():
        if any(part in name for part in NOISE) and isinstance(value, float):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):
            _without_noise(value)
    return config
