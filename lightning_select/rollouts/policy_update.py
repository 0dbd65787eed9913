"""The update of a policy on the groups that passed: inner epochs, minibatches, micro-batches, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lightning_select import distributed
from lightning_select.errors import ArgumentError, NonFiniteScoreError
from lightning_select.rollouts.advantages import SCALES, Scale
from lightning_select.rollouts.counters import Counters
from lightning_select.rollouts.groups import Group
from lightning_select.rollouts.grpo_checks import check_counts, check_rates
from lightning_select.rollouts.kl import kl
from lightning_select.rollouts.losses.grpo import GRPOLoss
from lightning_select.rollouts.training_rows import Micro, TrainingRows, minibatches
from lightning_select.types import Float, Tensor

__all__ = ["PolicyUpdate", "loss_for"]


@dataclass(frozen=True)
class PolicyUpdate:
    """Updates the policy of a module that optimises by hand; the fields are arguments of `GRPO`."""

    loss: Any
    scale: Scale
    kl: float
    inner_epochs: int
    minibatches: int
    micro_batch: int | None
    gradient_clip: float | None

    def __post_init__(self) -> None:
        check_counts(inner_epochs=self.inner_epochs, minibatches=self.minibatches, micro_batch=self.micro_batch)
        check_rates(gradient_clip=self.gradient_clip)
        if self.scale not in SCALES:
            raise ArgumentError(f"GRPO.scale must be one of {', '.join(SCALES)}, got {self.scale!r}.")

    def __call__(self, module: Any, groups: Sequence[Group], counters: Counters) -> dict[str, float]:
        """Train on ``groups``, the same on every rank.

        Raises:
            NonFiniteScoreError: The loss is not finite.

        Returns:
            Means over the optimiser steps: the loss, the divergence, the share of tokens that was clipped, and the
            entropy as the attempts show it.
        """
        rows, sums, steps = TrainingRows.of(groups, self.scale), torch.zeros(4, device=module.device), 0
        optimizer, rank, world = module.optimizers(), distributed.rank(), distributed.world_size()
        for epoch in range(self.inner_epochs):
            place = (module.seed, counters.updates, epoch)
            for part in minibatches(len(rows.attempts), self.minibatches, *place):
                optimizer.zero_grad()
                for micro in rows.micros(part, self.micro_batch, rank, world):
                    sums += self._backward(module, micro, world)
                _check_finite(sums, counters)
                if self.gradient_clip is not None:
                    module.clip_gradients(optimizer, self.gradient_clip, "norm")
                optimizer.step()
                steps += 1
        schedulers = module.lr_schedulers() or []
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()
        counters.add(updates=1)
        if world > 1:
            torch.distributed.all_reduce(sums)
        return dict(zip(("loss", "kl", "clipped", "entropy"), (sums / steps).tolist(), strict=True))

    def _backward(self, module: Any, micro: Micro, world: int) -> Float[Tensor, "4"]:
        attempts, advantages = micro.attempts.to(module.device), micro.advantages.to(module.device)
        now = module.policy.log_probs(attempts, temperature=module.temperature)
        found = self.loss(now, attempts.log_probs, advantages, attempts.mask, micro.totals)
        total, divergence = found.loss, now.new_zeros(())
        if module.reference is not None:
            with torch.no_grad():
                before = module.reference.log_probs(attempts, temperature=module.temperature)
            divergence = self.loss.reduce(kl(now, before, attempts.mask), attempts.mask, micro.totals)
            total = total + self.kl * divergence
        module.manual_backward(total * world)  # ranks take the mean of their gradients
        entropy = -(attempts.log_probs * attempts.mask).sum() / micro.totals.tokens
        return torch.stack([total.detach(), divergence.detach(), found.clipped.detach(), entropy]).float()


def _check_finite(sums: Float[Tensor, "4"], counters: Counters) -> None:
    """Before the step, so that the weights stay as they are."""
    if not bool(sums.isfinite().all()):
        raise NonFiniteScoreError(
            f"GRPO.loss must be finite, got {float(sums[0])} after {counters.updates} updates. The policy finds its "
            "own attempts impossible, or its weights hold NaN: lower lr, clip gradients, or take a wider precision."
        )


def loss_for(loss: Any, max_tokens: int) -> Any:
    """The loss, which learns how long a completion may be if it has to know; ``None`` is that of the paper.

    Raises:
        ArgumentError: It is no loss.
    """
    loss = GRPOLoss() if loss is None else loss
    if isinstance(loss, type) or not callable(loss) or not callable(getattr(loss, "reduce", None)):
        raise ArgumentError(f"GRPO.loss must be a loss with a method reduce(terms, mask, totals), got {loss!r}.")
    return replace(loss, max_tokens=max_tokens) if getattr(loss, "max_tokens", 0) is None else loss
