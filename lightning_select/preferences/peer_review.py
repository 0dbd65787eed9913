"""Collaborative reward modelling: two reward models, each of which chooses the pairs that the other one learns from.

Each model has a batch of its own in every step. The other model, as it is before the step, says how sure it is of each
pair of that batch, and the pairs with the largest margins are trained on. All of it happens online: no extra labels, no
model trained before.

Know before use:
    See `lightning_select.preferences.peer_select` on ``noise``. Both models are trained, so a run costs twice that of
    one model, and another forward pass of every pair without a gradient. Use either of them, or the mean of their
    scores. On a small bed (``examples/benchmarks/peer_review.py``) a model that reviews itself does as well
    (``review="self"``, the ablation), and so does plain training that stops early enough: what review spares you is to
    know when to stop. Compare both on your data.
    Implicit rewards: a model may return ``beta * (log pi - log reference)`` of a completion for its score.

References:
    "Two Minds Better Than One: Collaborative Reward Modeling for LLM Alignment", 2025, arXiv:2505.10597.

Deviations:
    Pairs are ranked within the batch of each rank and of each step, also under accumulation. The curriculum is part of
    the sampler (`lightning_select.preferences.pair_draws.PairDraws`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_select.batch import count_rows, take_rows
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.compat import logs_at_this_step
from lightning_select.errors import ArgumentError, BatchFormatError, ConfigurationError
from lightning_select.preferences.margins import Reviewing, margins_of, scores_of
from lightning_select.preferences.pair_loss import PairLoss, pair_loss
from lightning_select.preferences.peer_select import PeerSelect
from lightning_select.preferences.review_metrics import agreement, evaluation, kept_metrics
from lightning_select.preferences.two_models import are_alike, two_models
from lightning_select.signals.sharded import sharding_strategy
from lightning_select.types import Batch, Int

__all__ = ["PeerReview"]


class PeerReview(LightningModule):
    """Train two reward models on batches ``{"chosen", "rejected"}``; a ``flipped`` tells the metrics what is swapped.

    A batch holds the pairs of both models in turn: rows 0, 2, 4, ... are for the first and rows 1, 3, 5, ... for the
    second. `PairDraws` draws so that each model goes through all pairs in an order of its own; a loader that shuffles
    gives each model half of the pairs in every epoch.

    Optimisation is manual: set ``accumulate`` and ``clip`` here and not in the Trainer. ``trainer.global_step`` counts
    the steps of both optimizers, so ``max_steps=2000`` are 1,000 steps of each model.

    Args:
        models: Makes a reward model, and is called twice; or two models. What a model is given and returns:
            `lightning_select.preferences.margins.scores_of`.
        seeds: Two different numbers, for the initial weights; ``None`` draws both from torch's global generator.
        select: How many pairs are kept; ``None`` is `PeerSelect` at its defaults.
        loss: Of the pairs kept; ``None`` is `PairLoss` at its defaults.
        review: Who chooses: the ``peer``, or each model for itself (``self``).
        shared: Let both models learn from all rows of a batch.
        optimizer: Makes the optimizer of a model from its parameters; ``None`` is AdamW at its defaults.
        scheduler: Makes the learning rate scheduler of an optimizer; ``None``: the rate is constant.
        interval: Does a scheduler step after every ``step`` of the optimizer, or every ``epoch``?
        accumulate: Batches whose gradients make a step, the mean of them. The last step of an epoch may have fewer,
            and is smaller for it.
        clip: Largest norm of the gradient of a model; ``None``: any.

    Raises:
        ArgumentError: A value is out of range, or the two models are the same.
    """

    def __init__(
        self,
        models: Callable[[], nn.Module] | Sequence[nn.Module],
        seeds: Sequence[int] | None = None,
        select: PeerSelect | None = None,
        loss: PairLoss | None = None,
        review: Literal["peer", "self"] = "peer",
        shared: bool = False,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        interval: Literal["step", "epoch"] = "step",
        accumulate: int = 1,
        clip: int | float | None = None,
    ) -> None:
        super().__init__()
        if review not in ("peer", "self"):
            raise ArgumentError(f"PeerReview.review must be peer or self, got {review!r}.")
        if interval not in ("step", "epoch"):
            raise ArgumentError(f"PeerReview.interval must be step or epoch, got {interval!r}.")
        if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
            raise ArgumentError(f"PeerReview.accumulate must be a whole number, at least 1, got {accumulate!r}.")
        if clip is not None and (isinstance(clip, bool) or not isinstance(clip, (int, float)) or not clip > 0):
            raise ArgumentError(f"PeerReview.clip must be above 0, or None, got {clip!r}.")
        self.automatic_optimization = False
        self.select, self.loss = select or PeerSelect(), loss or PairLoss()
        self.review, self.shared, self.accumulate, self.clip, self.interval = review, shared, accumulate, clip, interval
        self._optimizer, self._scheduler = optimizer or torch.optim.AdamW, scheduler
        self.models = two_models(models, seeds)
        if self.select.noise > 0 and review == "peer" and are_alike(self.models):
            raise ArgumentError(
                "PeerReview.models must differ, or they cannot review each other, got the same weights twice"
                f"{'' if seeds is None else f' (seeds {tuple(seeds)})'}. Take two seeds, or two checkpoints; "
                "PeerSelect(noise=0) keeps all pairs, without a review."
            )
        self._reviewing = Reviewing()

    def forward(self, completions: Any) -> Tensor:
        """Mean of both models' scores."""
        one, other = (scores_of(model, completions) for model in self.models)
        return (one + other) / 2

    def configure_callbacks(self) -> list[Any]:
        """What keeps the state of a sampler of ours and tells a curriculum the margins, unless it is there already."""
        trainer: Any = self.trainer
        known = any(isinstance(callback, SamplerFeedback) for callback in trainer.callbacks)
        return [] if known else [SamplerFeedback()]

    def configure_optimizers(self) -> Any:
        """One optimizer a model, and one scheduler an optimizer.

        Raises:
            ArgumentError: The scheduler waits for a metric.
            ConfigurationError: Gradients would be scaled, or the strategy splits the models.
        """
        if strategy := sharding_strategy(self.trainer.strategy):
            raise ConfigurationError(
                f"PeerReview must have both models whole on every device, got Trainer(strategy={strategy}). "
                'Use strategy="ddp" or one device.'
            )
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ConfigurationError(
                "PeerReview must train in a precision that needs no scaling of gradients, got "
                f"{self.trainer.precision}: two optimizers would share one scale. Take bf16-mixed or 32-true."
            )
        optimizers = [self._optimizer(list(model.parameters())) for model in self.models]
        if self._scheduler is None:
            return optimizers
        schedulers = [self._scheduler(optimizer) for optimizer in optimizers]
        if isinstance(schedulers[0], torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ArgumentError("PeerReview.scheduler must depend on the step alone, got a ReduceLROnPlateau.")
        return optimizers, [{"scheduler": one, "interval": self.interval} for one in schedulers]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Review both batches, then train both models on what was kept, with the gradients of one backward pass."""
        parts = self._parts(batch)
        margins = self._reviews(parts)
        kept = [None if one is None else self.select(one, self.current_epoch) for one in margins]
        agreed = self._agreement(parts, kept)
        learnt = [
            margins_of(model, part if index is None else take_rows(part, index))
            for model, part, index in zip(self.models, parts, kept, strict=True)
        ]
        losses = [self.loss(one) for one in learnt]
        # One pass for both: neither loss reaches the other model, and DDP knows all gradients by its end.
        self.manual_backward((losses[0] + losses[1]) / self.accumulate)
        if (batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch:
            self._update()
        reviews = [(mine if one is None else one).detach() for mine, one in zip(learnt, margins, strict=True)]
        self._tell(losses, kept_metrics(kept, reviews, [part.get("flipped") for part in parts]) | agreed)
        return {"sample_loss": _in_turn([pair_loss(one) for one in reviews], self.shared)}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of each model and of the mean of their scores."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same."""
        self._evaluate(batch, "test")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient of one model."""
        if self.clip is not None:
            self.clip_gradients(optimizer, gradient_clip_val=self.clip, gradient_clip_algorithm="norm")

    def _parts(self, batch: Batch) -> list[Batch]:
        """The pairs of each model."""
        if not isinstance(batch, Mapping):
            raise BatchFormatError(f"A batch of pairs must be a mapping, got {type(batch).__name__}.")
        if self.shared:
            return [batch, batch]
        rows = count_rows(batch)
        if rows < 2:
            raise BatchFormatError(
                f"A batch of PeerReview must hold a pair for each of the two models, got {rows}. Drop the last batch "
                "of the loader, or set shared=True."
            )
        return [take_rows(batch, torch.arange(first, rows, 2, device=self.device)) for first in (0, 1)]

    def _reviews(self, parts: Sequence[Batch]) -> list[Tensor | None]:
        """Margins of each part by who reviews it; nothing where everything is kept for ever."""
        if self.select.noise == 0:
            return [None, None]
        return [self._reviewing(self._reviewer(number), part) for number, part in enumerate(parts)]

    def _reviewer(self, number: int) -> nn.Module:
        return self.models[1 - number if self.review == "peer" else number]

    def _update(self) -> None:
        for optimizer in self._listed(self.optimizers()):
            optimizer.step()
            optimizer.zero_grad()
        if self.interval == "step" or self.trainer.is_last_batch:
            for scheduler in self._listed(self.lr_schedulers()):
                scheduler.step()

    @staticmethod
    def _listed(value: Any) -> list[Any]:
        return [] if value is None else value if isinstance(value, list) else [value]

    def _agreement(
        self, parts: Sequence[Batch], kept: Sequence[Int[Tensor, "kept"] | None]
    ) -> dict[str, Tensor | float]:
        """Would the other model keep the same? It costs a pass, so only where the loggers are due."""
        if self.select.noise == 0 or not logs_at_this_step(self.trainer):
            return {}
        others = [self.models[number if self.review == "peer" else 1 - number] for number in (0, 1)]
        margins = [self._reviewing(model, part) for model, part in zip(others, parts, strict=True)]
        would = [self.select(one, self.current_epoch) for one in margins]
        return {"agreement": agreement([one for one in kept if one is not None], would, [len(one) for one in margins])}

    def _tell(self, losses: Sequence[Tensor], told: Mapping[str, Tensor | float]) -> None:
        """Losses of this step, and means over the epoch of what was kept."""
        each = {f"train/loss_{number}": loss.detach() for number, loss in enumerate(losses, 1)}
        self.log_dict(each, batch_size=1)
        means = {f"train/{name}": value for name, value in told.items()}
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def _evaluate(self, batch: Batch, part: str) -> None:
        margins = [margins_of(model, batch) for model in self.models]
        told = {f"{part}/{name}": value for name, value in evaluation(margins).items()}
        self.log_dict(told, batch_size=len(margins[0]), sync_dist=True)


def _in_turn(values: Sequence[Tensor], shared: bool) -> Tensor:
    """One value a row of the batch, from those of the two models."""
    if shared:
        return (values[0] + values[1]) / 2
    rows = values[0].new_empty(sum(len(one) for one in values))
    rows[0::2], rows[1::2] = values[0], values[1]
    return rows
