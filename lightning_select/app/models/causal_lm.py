"""An ordinary LightningModule around a causal language model of transformers; it knows nothing of data selection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_select import language_models
from lightning_select.errors import ArgumentError, ConfigurationError

__all__ = ["CausalLM"]


class CausalLM(LightningModule):
    """Supervised fine-tuning on batches ``{"input_ids", "attention_mask", "labels"}``; the model makes the loss.

    The loss is the mean over the answer tokens of a batch. With gradient accumulation every batch counts the same,
    however many tokens it has, as usual with Lightning.

    Args:
        name_or_path: Folder or hub id of a pretrained model; ``None`` builds one with random weights.
        architecture: What is built then: ``model_type`` and other fields of a config of transformers.
        lora: ``r`` (the rank; ``None`` trains all weights), ``alpha``, ``dropout``, ``target_modules`` of PEFT. With a
            rank, only the adapters are trained.
        lr: Largest learning rate of AdamW, reached after the warm-up; from there it falls to zero as a cosine. ``None``
            is 3e-3 from random weights, 2e-5 from pretrained ones, and 2e-4 for adapters.
        weight_decay: Weight decay of AdamW.
        warmup: Share of the steps in which the learning rate rises.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        dtype: Precision in which the weights are kept, for example ``"float32"`` or ``"bfloat16"``; ``None`` keeps that
            of the loaded model (and is needed for a quantised one).

    Raises:
        ArgumentError: A value is out of range.
        ConfigurationError: A package is not installed, or the model cannot be built.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        architecture: Mapping[str, Any] | None = None,
        lora: Mapping[str, Any] | None = None,
        lr: float | None = None,
        weight_decay: float = 0.0,
        warmup: float = 0.05,
        gradient_checkpointing: bool = False,
        dtype: str | None = "float32",
    ) -> None:
        super().__init__()
        if not 0 <= warmup < 1:
            raise ArgumentError(f"CausalLM.warmup must be in [0, 1), got {warmup}.")
        if lr is not None and not lr > 0:
            raise ArgumentError(f"CausalLM.lr must be above 0, or null, got {lr}.")
        kind = language_models.floating(dtype, "CausalLM")
        self.weight_decay = weight_decay
        self.warmup = warmup
        model = (
            language_models.load_model(name_or_path, "model", "model=causal_lm")
            if name_or_path is not None
            else language_models.build_model(architecture or {}, "model", "model=causal_lm")
        )
        if kind is not None:
            model = model.to(kind)
        model.config.use_cache = False  # keys and values of earlier tokens are of use to generation alone
        if gradient_checkpointing:
            language_models.with_checkpointing(model)
        self.model = _with_adapters(model, lora or {})
        usual = 3e-3 if name_or_path is None else 2e-5
        self.lr = lr if lr is not None else usual if self.model is model else 2e-4
        self.model.train()  # loaded models come in evaluation mode, and a Trainer leaves modes as they are

    def forward(self, **inputs: Tensor) -> Any:
        """What the model returns: logits, and the loss where there are labels."""
        return self.model(**inputs)

    def setup(self, stage: str) -> None:
        """Compare the vocabulary with that of the data, where those have a tokenizer.

        Raises:
            ConfigurationError: Some tokens have no embedding.
        """
        tokenizer = getattr(getattr(self.trainer, "datamodule", None), "tokenizer", None)
        rows = self.model.get_input_embeddings().num_embeddings
        if tokenizer is not None and len(tokenizer) > rows:
            raise ConfigurationError(
                f"The model must know the {len(tokenizer)} tokens of data.tokenizer, got {rows} embeddings. Take the "
                f"tokenizer of the model, or for one that is built: model.architecture.vocab_size={len(tokenizer)}"
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean cross entropy of the answer tokens."""
        loss: Tensor = self(**batch).loss
        self.log("train/loss", loss, batch_size=len(batch["labels"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The same; every answer token of the held-out rows counts once."""
        tokens = int((batch["labels"][:, 1:] != -100).sum())
        self.log("val/loss", self(**batch).loss, prog_bar=True, batch_size=tokens)

    def configure_optimizers(self) -> Any:
        """AdamW on what is trained, with a warm-up and then a cosine, or a constant rate where training has no end."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total, self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _rate(step: int, total: int | float, warmup: int | float) -> float:
    """Share of the largest learning rate at a step."""
    if not math.isfinite(total):
        return 1.0
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total - rising))))


def _with_adapters(model: Any, lora: Mapping[str, Any]) -> Any:
    known = {"r": None, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear"}
    unknown = sorted(set(lora) - set(known))
    if unknown:
        raise ArgumentError(f"CausalLM.lora must hold {', '.join(known)} and nothing else, got {', '.join(unknown)}.")
    return language_models.with_lora(model, lora, known, "model.lora", "model.lora.r")
