"""Online data selection for PyTorch Lightning.

While a model trains, look at what it says about each row and decide which rows the next step learns from, and how
strongly. Two callbacks work on an untouched LightningModule: `BatchSelection` keeps the most useful rows of every
candidate batch, `LossReweighting` weighs the rows of every batch by their losses. The samplers of
`lightning_select.samplers` draw the next rows by what was learnt of them; `SamplerFeedback` tells them, by itself.
`SelectionReport` writes a page about all of it.
"""

from __future__ import annotations

from lightning_select.callbacks.batch_selection import BatchSelection
from lightning_select.callbacks.loss_reweighting import LossReweighting
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.callbacks.selection_report import SelectionReport
from lightning_select.device_loader import DeviceLoader
from lightning_select.schedule import Anneal, Schedule
from lightning_select.signals.base import Signals
from lightning_select.signals.holdout import Holdout
from lightning_select.types import Selection

__all__ = [
    "Anneal",
    "BatchSelection",
    "DeviceLoader",
    "Holdout",
    "LossReweighting",
    "SamplerFeedback",
    "Schedule",
    "Selection",
    "SelectionReport",
    "Signals",
]

__version__ = "0.1.0"
