"""A reward model of transformers: a pretrained model with one score for an output."""

from __future__ import annotations

from typing import Any

from lightning_select.errors import ConfigurationError

__all__ = ["reward_classifier"]


def reward_classifier(name_or_path: str, dtype: str = "float32") -> Any:
    """A sequence classification model with one label, in training mode.

    Its head is drawn anew where the checkpoint has none, so that two seeds give two models. A checkpoint that has one
    gives the same model twice: name two checkpoints, then.

    Args:
        name_or_path: Folder or hub id.
        dtype: Precision in which the weights are kept.

    Raises:
        ConfigurationError: transformers is not installed, or cannot load the model.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigurationError(
            'A reward_classifier must have transformers, got none installed: pip install "lightning-select[llm]"'
        ) from error
    try:
        auto = transformers.AutoModelForSequenceClassification
        model = auto.from_pretrained(name_or_path, num_labels=1, torch_dtype=dtype)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(
            "reward_classifier.name_or_path must be a folder or a hub id of a model that transformers can load as a "
            f"classifier of sequences, got {name_or_path!r}: {reason}"
        ) from error
    if model.config.pad_token_id is None:  # decoders read the score at the last token before the padding
        model.config.pad_token_id = model.config.eos_token_id
    return model.train()
