"""What our callbacks have in common: a name, a schedule, an interception, metrics on the logger's cadence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_select.callbacks.interception import Interception
from lightning_select.callbacks.verdicts import Verdicts
from lightning_select.compat import Callback, logs_at_this_step, rank_info, rank_zero_info
from lightning_select.errors import ArgumentError, ConfigurationError, TrainingStepContractError
from lightning_select.schedule import Schedule
from lightning_select.signals.base import Signals
from lightning_select.types import Batch

__all__ = ["SelectionCallback"]


class SelectionCallback(Callback):
    """Base of the callbacks that select or weigh rows.

    Args:
        name: Prefix of the metrics and key of the state in a checkpoint.
        schedule: When to act; ``None`` is always.

    Attributes:
        standing_by: Is this one that was attached by itself and leaves the work to another?
    """

    def __init__(self, name: str, schedule: Schedule | None) -> None:
        super().__init__()
        if not isinstance(name, str) or not name or "/" in name:
            raise ArgumentError(f"{type(self).__name__}.name must be a word without '/', got {name!r}.")
        if schedule is not None and not isinstance(schedule, Schedule):
            raise ArgumentError(f"{type(self).__name__}.schedule must be a Schedule or None, got {schedule!r}.")
        self.name = name
        self.schedule = schedule or Schedule()
        self.interception: Interception | None = None
        self.total_steps: int | None = None
        self._verdicts = Verdicts()
        self._checked = False
        self._said: set[str] = set()
        self._said_inactive = False
        self._key = self._generate_state_key(name=name)
        self._known_unique = False
        self.standing_by = False
        self._metrics: Callable[[], Mapping[str, float | Tensor]] | None = None

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint: class and name.

        Lightning compares keys in ``Trainer(...)`` and knows nothing of names, so callbacks differ until ``setup``
        has compared their names with a message of its own.
        """
        if self._known_unique:
            return self._key  # the Trainer asks several times in every step
        return f"{self._key}#{id(self)}"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Step between Trainer and module.

        Raises:
            ConfigurationError: Two of our callbacks have one name.
            TrainingStepContractError: The module's way of training leaves nothing to hold on to.
        """
        self._check_name(trainer)
        if stage == "fit":
            self._leave()
            # A fit that ended by another error may have left some that nobody asked for.
            self._verdicts = Verdicts()
            self.interception = Interception.join(self, trainer, pl_module)

    def _check_name(self, trainer: Any) -> None:
        others = (callback for callback in trainer.callbacks if isinstance(callback, SelectionCallback))
        names = [callback.name for callback in others if not callback.standing_by]
        if names.count(self.name) > 1:
            raise ConfigurationError(
                f"{type(self).__name__}.name must be unique among the Trainer's callbacks, got {self.name!r} "
                f"{names.count(self.name)} times. Pass name=... to all but one of them."
            )
        self._known_unique = True

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Step out again."""
        self._leave()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Step out again, so that the module is as it was."""
        self._leave()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Learn how long training will be, as far as it can be known."""
        total = trainer.estimated_stepping_batches
        self.total_steps = int(total) if math.isfinite(total) else None
        self._checked = False
        if self.schedule.needs_total:
            self.schedule.active(trainer.global_step, self.total_steps)  # says so if the length is unknown

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log and check on the logger's cadence; after the first active step, check at once."""
        due = logs_at_this_step(trainer)
        if due or not self._checked:
            self._checked = self._metrics is not None
            self._verdicts.raise_broken()
        if due:
            metrics = self._metrics() if self._metrics is not None else {"active": 0.0}
            for key, value in metrics.items():
                pl_module.log(f"{self.name}/{key}", value, on_step=True, on_epoch=False, prog_bar=False, batch_size=1)
        self._metrics = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Check what was noted since the loggers were last due."""
        self._verdicts.raise_broken()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Check before anything is written, so that a checkpoint never holds what a broken rule led to."""
        self._verdicts.raise_broken()

    def reshape(self, batch: Batch) -> tuple[Batch, Tensor | None, Tensor | None]:
        """The batch to train on, the rows taken (``None``: all), and their weights (``None``: all alike)."""
        return batch, None, None

    def weighs(self) -> bool:
        """Will this callback weigh the rows of the batch now in training?"""
        return False

    def weigh(self, losses: Tensor | None) -> Tensor | None:
        """Weights of the rows with these losses."""
        return None

    @property
    def wants(self) -> frozenset[str]:
        """Signals of the training step that this callback wants to hear; none, and it hears nothing."""
        return frozenset()

    def hear(self, signals: Signals) -> None:
        """Be told the signals of the rows of the batch now in training."""

    @property
    def insists(self) -> bool:
        """Must a step that cannot be read be an error, or can this callback do without?"""
        return True

    def cannot_hear(self, error: TrainingStepContractError) -> None:
        """Be told why there are no signals of rows of the batch.

        Raises:
            TrainingStepContractError: It insists.
        """
        if self.insists:
            raise error

    def overhear(self, signals: Signals, scores: Tensor) -> None:
        """Be told what another callback saw of the candidate rows, and their scores."""

    def acts_at(self, step: int) -> bool:
        """Is the method on at this step? Says so once when it is not."""
        active = self.schedule.active(step, self.total_steps)
        if not active and not self._said_inactive:
            self._said_inactive = True
            rank_zero_info(f"{self.name} is inactive at step {step} by its {self.schedule}; all rows train alike.")
        return active

    def say_once(self, message: str, rank: int | None = None) -> None:
        """Tell the user, the first time only: on the first rank, or what concerns ``rank`` alone, on that."""
        if message not in self._said:
            self._said.add(message)
            if rank is None:
                rank_zero_info(message)
            else:
                rank_info(message, rank)

    def _leave(self) -> None:
        self._metrics = None  # of a step that an error cut off
        if self.interception is not None:
            self.interception.leave(self)
            self.interception = None


def entropy(weights: Tensor) -> Tensor:
    """How evenly the weights are spread: 1 when all are alike, 0 when one row has it all."""
    share = weights / weights.sum()
    return torch.special.entr(share).sum() / max(math.log(max(weights.numel(), 2)), 1e-9)
