"""Learning rates that fall by epochs, in a comparison whose methods have epochs of different length."""

from __future__ import annotations

import math
import sys
from typing import Any

from lightning_select.compat import Callback

__all__ = ["SharedEpochs", "steps_of_epoch"]


class SharedEpochs(Callback):
    """Steps schedules by epochs of uniform; to be among the Trainer's callbacks.

    A method that keeps a tenth of its batches has epochs of a tenth as many steps. A schedule that is stepped at their
    ends, which is what Lightning does unless it is told otherwise, would fall ten times as fast as that of uniform.

    Args:
        steps: Optimiser steps of an epoch of uniform.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._schedules: list[tuple[Any, int]] = []
        self._epochs = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the schedules by epochs over from Lightning; a module that optimises by hand steps its own."""
        if not pl_module.automatic_optimization:
            return
        for config in trainer.lr_scheduler_configs:
            if config.interval == "epoch":
                self._schedules.append((config, config.frequency))
                config.interval, config.frequency = "step", sys.maxsize  # Lightning never gets there

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Step those whose epoch is over, after the validation at its end."""
        while self._epochs < trainer.global_step // self.steps:
            self._epochs += 1
            for config, frequency in self._schedules:
                metric = trainer.callback_metrics.get(config.monitor) if config.reduce_on_plateau else None
                if self._epochs % frequency == 0 and (metric is not None or not config.reduce_on_plateau):
                    pl_module.lr_scheduler_step(config.scheduler, metric)


def steps_of_epoch(trainer: Any) -> int | None:
    """Optimiser steps of an epoch of this Trainer; ``None`` where it has no end."""
    batches = trainer.num_training_batches
    return math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) and batches else None
