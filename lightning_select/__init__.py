"""Online data selection for PyTorch Lightning."""

from __future__ import annotations

from lightning_select.callbacks.batch_selection import BatchSelection
from lightning_select.callbacks.loss_reweighting import LossReweighting

__all__ = ["BatchSelection", "LossReweighting"]
