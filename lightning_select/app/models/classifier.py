"""An ordinary LightningModule, written without a thought of data selection."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

__all__ = ["Classifier"]


class Classifier(LightningModule):
    """A multilayer perceptron on batches ``{"x", "y"}``.

    Args:
        inputs: Features of a row.
        classes: Number of classes.
        hidden: Width of the two hidden layers.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
    """

    def __init__(
        self, inputs: int, classes: int, hidden: int = 128, lr: float = 1e-3, weight_decay: float = 0.01
    ) -> None:
        super().__init__()
        self.lr = lr
        self.weight_decay = weight_decay
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        loss = F.cross_entropy(self(batch["x"]), batch["y"])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss and accuracy."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss and accuracy."""
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> Any:
        """AdamW with a constant learning rate."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def _evaluate(self, batch: dict[str, Tensor], part: str) -> None:
        logits = self(batch["x"])
        right = logits.argmax(dim=-1) == batch["y"]
        values = {f"{part}/loss": F.cross_entropy(logits, batch["y"]), f"{part}/acc": right.float().mean()}
        self.log_dict(values, batch_size=len(right))
