"""GRPO: a policy learns from rewards of its own attempts, each judged against the others at the same prompt.

A batch of the training loader is a round of prompts. Groups of attempts that pass the filter wait until there are
enough of them for an update; until then, steps return without one. So a sampler of this package sees every attempt at
every prompt, nothing is lost where the loader ends, and a checkpoint may be written at any batch.

References:
    Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024,
    arXiv:2402.03300. What is configured has its sources in its own file.

Deviations:
    The log-probabilities that the ratio is taken against are those noted while sampling. The reference of the KL term
    is the policy at the start, for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_select.compat import rank_zero_info, rank_zero_warn
from lightning_select.rollouts.advantages import Scale
from lightning_select.rollouts.counters import Counters
from lightning_select.rollouts.evaluation import evaluate
from lightning_select.rollouts.grpo_checks import (
    check_counts,
    check_parts,
    check_rates,
    check_reference,
    check_trainer,
    checked_pass_at,
    checked_refill,
    prompts_of,
)
from lightning_select.rollouts.passing import Filter
from lightning_select.rollouts.policy import Attempts, Policy
from lightning_select.rollouts.policy_update import PolicyUpdate, loss_for
from lightning_select.rollouts.refill import Refill, RefillBuffer
from lightning_select.rollouts.relaxing import relaxed, told_band
from lightning_select.rollouts.reporting import log_round, show
from lightning_select.rollouts.reward import Reward, Scorer
from lightning_select.rollouts.rounds import Rounds
from lightning_select.rollouts.screening import Screening
from lightning_select.types import Int

__all__ = ["GRPO"]


class GRPO(LightningModule):
    """Trains a policy on rewards, with a filter, a refill and screening where these are asked for.

    Batches are mappings with the prompts, a list of strings, under ``prompt_key``; the reward function gets all of it.
    ``training_step`` returns ``{"loss", "reward"}``, the latter the metric of every attempt (rows, attempts), which
    samplers that follow success learn from. ``trainer.global_step`` counts optimiser steps; those of one update belong
    together, so that ``max_steps`` may be passed by some. Trained by a Trainer of ``lightning.pytorch``; where it forks
    or spawns ranks, the counters of this process stay as they were.

    Args:
        policy: What is trained: an ``nn.Module`` with the methods of `Policy`.
        reward: ``(prompts, completions, batch) -> one number per completion``.
        attempts: Attempts at a prompt.
        group_filter: Which groups train; ``None``: all. Sees the metric.
        refill: How groups are gathered; ``None``: `Refill` as it is where there is a filter, else every round is an
            update.
        screening: Attempts before the others; ``None``: none.
        metric: What filter, samplers and the share of right attempts go by, a function like ``reward``; ``None``: the
            reward itself.
        solved_at: An attempt whose metric reaches this is right.
        loss: How the terms of tokens are clipped and averaged; ``None``: that of the paper.
        scale: What advantages are divided by: the standard deviation of their ``group`` or ``batch``, or ``none``.
        kl: Coefficient of the divergence from the policy at the start; 0 keeps no copy of it.
        temperature: Of sampling, and of the distribution that is trained.
        max_tokens: Tokens of a completion at most.
        inner_epochs: How often an update goes over its attempts.
        minibatches: Optimiser steps of each of these.
        micro_batch: Attempts in one backward pass; ``None``: all of a minibatch. Changes memory, not results.
        lr: Learning rate of AdamW, after the warm-up.
        warmup: Updates over which the learning rate rises.
        weight_decay: Of AdamW.
        gradient_clip: Largest norm of the gradient; ``None``: not clipped.
        optimizer: Called with the parameters that are trained, makes another optimizer; ``lr`` and ``weight_decay`` are
            then its own business.
        pass_at: Validation logs ``pass@k`` for each of these ``k``, from as many attempts as the largest.
        show_every: Updates between two times that some attempts are shown; 0: never.
        prompt_key: Entry of a batch that holds the prompts.
        seed: Of all attempts and orders.

    Raises:
        ArgumentError: A value is out of range.
    """

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        *,
        attempts: int = 8,
        group_filter: Filter | None = None,
        refill: Refill | None = None,
        screening: Screening | None = None,
        metric: Reward | None = None,
        solved_at: float = 1.0,
        loss: Callable[..., Any] | None = None,
        scale: Scale = "group",
        kl: float = 0.0,
        temperature: float = 1.0,
        max_tokens: int = 256,
        inner_epochs: int = 1,
        minibatches: int = 1,
        micro_batch: int | None = None,
        lr: float = 1e-5,
        warmup: int = 0,
        weight_decay: float = 0.0,
        gradient_clip: float | None = 1.0,
        optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None,
        pass_at: Sequence[int] = (1, 4),
        show_every: int = 50,
        prompt_key: str = "prompt",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_counts(attempts=attempts, max_tokens=max_tokens, warmup=warmup, show_every=show_every)
        check_rates(kl=kl, temperature=temperature, lr=lr, weight_decay=weight_decay, solved_at=solved_at)
        check_parts(policy, reward, metric, group_filter, screening, attempts, optimizer, seed)
        self.automatic_optimization = False
        self.policy: Any = policy
        self.reference = policy.reference() if kl else None
        self.temperature, self.max_tokens = temperature, max_tokens
        self.lr, self.warmup, self.weight_decay, self.optimizer = lr, warmup, weight_decay, optimizer
        self.pass_at, self.solved_at = checked_pass_at(pass_at), solved_at
        self.show_every, self.prompt_key, self.seed = show_every, prompt_key, seed
        self.counters = Counters()
        self.buffer = RefillBuffer(checked_refill(refill, group_filter), self.counters, relaxed(group_filter, attempts))
        scores = Scorer(reward), None if metric is None else Scorer(metric)
        self.rounds = Rounds(self._explore, *scores, group_filter, screening, attempts, solved_at, seed)
        fitted = loss_for(loss, max_tokens)
        self._update = PolicyUpdate(fitted, scale, kl, inner_epochs, minibatches, micro_batch, gradient_clip)

    def generate(
        self, prompts: Sequence[str], attempts: int, keys: Int[Tensor, "rows"], *, temperature: float, max_tokens: int
    ) -> Attempts:
        """Attempts at each prompt. Override it to have a faster engine make them, with their log-probabilities."""
        return self.policy.sample(prompts, attempts, keys, max_tokens=max_tokens, temperature=temperature)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """A round, and an update if it is due."""
        last = self._is_last_round()
        metric, shown = self.rounds(prompts_of(batch, self.prompt_key), batch, self.buffer)
        found: dict[str, float] = {}
        if self.buffer.is_due(last=last):
            groups = self.buffer.take(last=last)
            self._stop_if_starved()
            found = self._update(self, groups, self.counters) if groups else {}
            if groups and self.show_every and (self.counters.updates - 1) % self.show_every == 0:
                show(shown, self.counters.updates)
        log_round(self, metric, found)
        return {"loss": torch.tensor(found.get("loss", 0.0), device=self.device), "reward": metric}

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log what the policy can do: greedily, and in several attempts."""
        evaluate(self, "val", batch, batch_idx)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same on test prompts."""
        evaluate(self, "test", batch, batch_idx)

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up, unless another optimizer was given."""
        trained = [weight for weight in self.policy.parameters() if weight.requires_grad]
        if self.optimizer is not None:
            return self.optimizer(trained)
        adam = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        rise = torch.optim.lr_scheduler.LambdaLR(adam, lambda update: min(1.0, (update + 1) / (self.warmup + 1)))
        return [adam], [rise]

    def setup(self, stage: str) -> None:
        """Look at the Trainer.

        Raises:
            ConfigurationError: Its strategy keeps only parts of the weights on a device.
        """
        check_trainer(self.trainer)

    def on_fit_start(self) -> None:
        """Say what the filter lets through; a run that starved may try again."""
        self.buffer.empty = 0 if self.buffer.starved else self.buffer.empty
        if self.rounds.group_filter is not None:
            rank_zero_info(told_band(self.rounds.group_filter, self.rounds.attempts))

    def on_fit_end(self) -> None:
        """Say so if nothing was learnt."""
        if self.counters.rounds and not self.counters.updates and not self.buffer.starved:
            rank_zero_warn(f"The policy was never updated, since no group of attempts passed. {self.buffer.told()}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the groups that wait, and the sums."""
        checkpoint["grpo"] = {"counters": self.counters.state_dict(), "buffer": self.buffer.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them.

        Raises:
            ConfigurationError: The checkpoint has a reference and this module has none, or the other way round.
        """
        check_reference(checkpoint["state_dict"], self.reference)
        if "grpo" in checkpoint:
            self.counters.load_state_dict(checkpoint["grpo"]["counters"])
            self.buffer.load_state_dict(checkpoint["grpo"]["buffer"])

    def _explore(self, prompts: Sequence[str], attempts: int, keys: Int[Tensor, "rows"]) -> Attempts:
        with torch.no_grad():
            return self.generate(prompts, attempts, keys, temperature=self.temperature, max_tokens=self.max_tokens)

    def _stop_if_starved(self) -> None:
        if self.buffer.starved and not self.trainer.should_stop:
            self.trainer.should_stop = True
            rank_zero_warn(
                f"No group of attempts passed in {self.buffer.empty} fillings in a row, so there is nothing to learn "
                f"from, and training stops. {self.buffer.told()} Start from a better policy, or with easier prompts."
            )

    def _is_last_round(self) -> bool:
        """Is this the last batch of the last epoch, as far as that is known?"""
        trainer = self.trainer
        return bool(trainer.is_last_batch) and trainer.current_epoch + 1 == trainer.max_epochs
