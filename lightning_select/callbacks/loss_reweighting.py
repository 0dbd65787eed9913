"""Reweight: measure the row losses of the training forward pass and weigh its gradient, without a second pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_select.callbacks.base import SelectionCallback, entropy
from lightning_select.callbacks.choice import checked_weights, name_of, noted_weights
from lightning_select.callbacks.gathering import Gathering
from lightning_select.compat import starts_amid_epoch
from lightning_select.errors import ArgumentError
from lightning_select.protocols import Weighting
from lightning_select.schedule import Schedule, resolve
from lightning_select.signals.contract import manual_error
from lightning_select.types import Float

__all__ = ["LossReweighting"]

_TINY = torch.finfo(torch.float32).tiny


class LossReweighting(SelectionCallback):
    r"""Weighs the rows of every training batch by their losses, in the same forward and backward pass.

    The losses of all rows of all ranks go to the weighting; its weights are detached, brought to mean one, and
    multiply the gradient of each row. The loss that the step returns and logs stays the unweighted one, so that curves
    of different weightings can be compared. Rows without a finite loss count as zero and do not disturb the others.
    With gradient accumulation, weights are of mean one within each micro-batch. Where a loss has rows of its own making
    (the nodes of graphs, the windows of a series), these are weighed.

    Args:
        weighting: Losses to weights, a `Weighting` or any function ``losses -> weights``. It sees finite losses only:
            a row without one shows the mean of the others and gets no weight, whatever the weighting says.
        schedule: When to act; outside, all rows train alike.
        name: Prefix of the metrics and key in the checkpoint; needed when two callbacks are of one kind.

    Raises:
        ArgumentError: A value is out of range.

    Attributes:
        last_weights: Weights of the rows of the latest batch, on their device.

    Logs, on the logger's cadence: ``active``, ``weight_entropy`` (1: all alike), ``weight_max``, ``loss_mean``,
    ``not_finite`` (rows without a finite loss).

    Example::

        Trainer(callbacks=[LossReweighting(DynamicLoss(strategy="linupper", temperature=0.4))])
    """

    def __init__(
        self,
        weighting: Weighting | Callable[[Tensor], Tensor],
        *,
        schedule: Schedule | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__("loss_reweighting" if name is None else name, schedule)
        if not callable(weighting) or isinstance(weighting, type):
            raise ArgumentError(f"LossReweighting.weighting must be callable and no class, got {weighting!r}.")
        self.weighting = weighting
        self.last_weights: Float[Tensor, "rows"] | None = None
        self._trainer: Any = None
        self._gathering = Gathering("LossReweighting")

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Step between Trainer and module.

        Raises:
            ConfigurationError: Two of our callbacks have one name.
            TrainingStepContractError: The module optimises by hand.
        """
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not pl_module.automatic_optimization:
            raise manual_error(pl_module, type(self).__name__, "BatchSelection with a selection_step")
        self._trainer = trainer

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Ask once how many ranks there are."""
        super().on_train_start(trainer, pl_module)
        self._gathering = Gathering("LossReweighting", amid=starts_amid_epoch(trainer))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """From the next epoch on, the first batch tells how large they are."""
        super().on_train_epoch_end(trainer, pl_module)
        self._gathering.next_epoch()

    def weighs(self) -> bool:
        """Is the method on at this step?"""
        return self.acts_at(self._trainer.global_step)

    def weigh(self, losses: Float[Tensor, "rows"] | None) -> Float[Tensor, "rows"] | None:
        """Weights of mean one over the rows of all ranks; those of this rank."""
        if losses is None:
            return None
        rows = losses.shape[0]
        everyone = self._gathering.values(losses)
        self._verdicts.note(type(self).__name__, _some_finite, everyone)
        weighting = resolve(self.weighting, self._trainer.global_step, self.total_steps)
        weights = self._weigh_all(weighting, everyone)
        if self._gathering.world > 1:
            weights = self._gathering.own(weights, rows)
        self.last_weights = weights
        self._metrics = lambda: {
            "active": 1.0,
            "weight_entropy": entropy(weights),
            "weight_max": weights.max(),
            "loss_mean": torch.where(everyone.isfinite(), everyone, torch.nan).nanmean(),
            "not_finite": (~losses.isfinite()).sum().float(),
        }
        return weights

    def _weigh_all(self, weighting: Callable[[Tensor], Any], losses: Float[Tensor, "all"]) -> Float[Tensor, "all"]:
        owner = name_of(weighting)
        if getattr(weighting, "normalised", False):
            return noted_weights(owner, weighting(losses), losses.shape[0], self._verdicts)
        finite = losses.isfinite()
        count = finite.sum()
        mean = torch.where(finite, losses, 0.0).sum() / count.clamp(min=1)
        weights = weighting(torch.where(finite, losses, mean))
        weights = checked_weights(owner, weights, losses.shape[0], self._verdicts) * finite
        return weights * (count / weights.sum().clamp(min=_TINY))


def _some_finite(losses: Float[Tensor, "steps all"]) -> Mapping[str, tuple[Tensor, Tensor]]:
    count = losses.isfinite().sum(dim=1)
    return {"finite_losses": (count == 0, count)}
