"""Models of transformers, made so that they do the same whenever they are asked.

Dropout of every kind is set to zero before a model is built. Log-probabilities noted while sampling are compared with
those of later forwards, and noise between the two would read as a policy that has changed. Unlike evaluation mode, it
stays off where gradient checkpointing computes layers again, which models do in training mode only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_select import language_models
from lightning_select.errors import ArgumentError

__all__ = ["build_model", "load_model", "with_adapters"]

NOISE = ("drop", "jitter")
"""In the names of fields that make a model do something else each time."""


def load_model(name_or_path: str) -> Any:
    """A pretrained causal language model."""
    return language_models.load_model(name_or_path, "HFPolicy", "HFPolicy", _without_noise)


def build_model(architecture: Mapping[str, Any], vocabulary: int) -> Any:
    """A model with random weights; the size of its vocabulary is that of the tokenizer if nothing else is said."""
    size = {"vocab_size": vocabulary}
    return language_models.build_model(architecture, "HFPolicy", "HFPolicy", _without_noise, size)


def with_adapters(model: Any, lora: Mapping[str, Any]) -> Any:
    """The model with adapters, which alone are trained; the model itself without a rank."""
    known = {"r": None, "alpha": 16, "target_modules": "all-linear"}
    unknown = sorted(set(lora) - set(known))
    if unknown:
        rule = f"hold {', '.join(known)} and nothing else (no dropout)"
        raise ArgumentError(f"HFPolicy.lora must {rule}, got {', '.join(unknown)}.")
    return language_models.with_lora(model, lora, known, "HFPolicy.lora", "HFPolicy.lora")


def _without_noise(config: Any) -> Any:
    """The config, and those of its parts, with every rate of noise at zero."""
    for name, value in vars(config).items():
        if any(part in name for part in NOISE) and isinstance(value, float):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):
            _without_noise(value)
    return config
