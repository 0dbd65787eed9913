"""The bed of `grpo`: sums, a policy that has seen a few, and one training run of it on rewards, both axes noted."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from common import QUIET, without_attached
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, RandomSampler

from lightning_select.app.data.arithmetic import Arithmetic
from lightning_select.app.models.warm_start import started_on_sums
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.rollouts.balanced import Balanced
from lightning_select.rollouts.grpo import GRPO
from lightning_select.rollouts.refill import Refill
from lightning_select.rollouts.rewards.exact_answer import ExactAnswer
from lightning_select.rollouts.screening import Screening
from lightning_select.rollouts.tiny_policy import TinyPolicy
from lightning_select.rollouts.uniforms import attempt_keys
from lightning_select.rollouts.zero_variance import ZeroVariance
from lightning_select.samplers.beta_posterior import BetaPosterior

__all__ = ["ARMS", "ATTEMPTS", "PROMPTS", "Curve", "Point", "Settings", "data_of", "train"]

PROMPTS, ATTEMPTS, MAX_TOKENS = 32, 8, 5
SOLVED = ("1+1", "1-1", "2+1")
LEARNT = {"2-1": 0.3, "3+1": 0.5, "3-1": 0.6, "2+2": 0.7}
"""Kinds of sums that the policy knows at the start better than it says: their share of wrong answers in the supervised
start. From rewards it learns which of its answers to trust."""

HOPELESS = ("2*2", "3+3", "3-3")
CATEGORIES = (*SOLVED, *LEARNT, *HOPELESS)
PER_CATEGORY, HELD_OUT = 200, 40
LOOKS, SHOWN = 4, 700
"""Attempts at a sum when it is looked at what the policy can do, and training sums that are looked at."""

MOPPS = {"score": "near", "target": 0.5, "keep": 0.5, "forget": 1.0}
VADE = {"score": "skewed", "keep": 0.2, "forget": 0.999}
"""Of all prompts, as the training set is small."""


@dataclass(frozen=True)
class Settings:
    """Of a run.

    Attributes:
        lr: Learning rate.
        warmup: Updates over which it rises.
        start: Steps of the supervised start.
        updates: Updates after which it may end.
        rounds: Rounds of attempts (of a whole batch) after which it may end; it ends when both are over.
        every: Updates, or rounds, between two looks at what the policy can do.
        most: Rounds after which it ends in any case.
    """

    lr: float = 3e-4
    warmup: int = 20
    start: int = 1300
    updates: int = 240
    rounds: int = 240
    every: int = 10
    most: int = 480


@dataclass(frozen=True)
class Arm:
    """What differs from plain: arguments of the module, and of the sampler (``None``: uniform)."""

    module: Mapping[str, Any] = field(default_factory=dict)
    sampler: Mapping[str, Any] | None = None


ARMS: Mapping[str, Arm] = {
    "plain": Arm(),
    "zero variance": Arm({"group_filter": ZeroVariance(), "refill": Refill()}),
    "balanced": Arm({"group_filter": Balanced(), "refill": Refill()}),
    "speed": Arm({"group_filter": ZeroVariance(), "refill": Refill(), "screening": Screening(4)}),
    "vade": Arm(sampler=VADE),
    "mopps": Arm(sampler=MOPPS),
    "difficulty_full": Arm({"group_filter": ZeroVariance(), "refill": Refill(), "screening": Screening(4)}, MOPPS),
}


@dataclass(frozen=True)
class Point:
    """What the policy can do, and what that has cost: seconds without those of looking.

    The reward is the mean over training prompts; the same over held-out ones stands beside it.
    """

    updates: int
    attempts: int
    tokens: int
    seconds: float
    reward: float
    held_out: float


@dataclass
class Curve(Callback):
    """Looks at what the policy can do now and then, and ends the run when its budget is used up."""

    train: Sequence[Mapping[str, Any]]
    held_out: Sequence[Mapping[str, Any]]
    settings: Settings
    points: list[Point] = field(default_factory=list)
    informative: list[float] = field(default_factory=list)
    seconds: float = 0.0
    _since: float = 0.0
    _seen: tuple[int, int] = (0, 0)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._look(pl_module)
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds += time.perf_counter() - self._since
        sums, plan = pl_module.counters, self.settings
        tried = outputs["reward"].isfinite().any(dim=1)
        share = outputs["reward"].nanmean(dim=1)[tried]
        self.informative.append(float(((share > 0) & (share < 1)).float().mean()))
        rounds = sums.attempts / (PROMPTS * ATTEMPTS)
        seen = sums.updates // plan.every, int(rounds) // plan.every
        if seen != self._seen:
            self._seen = seen
            self._look(pl_module)
        if (sums.updates >= plan.updates and rounds >= plan.rounds) or rounds >= plan.most:
            trainer.should_stop = True
        self._since = time.perf_counter()

    def _look(self, module: Any) -> None:
        reward, held_out = (share_right(module.policy, rows) for rows in (self.train, self.held_out))
        sums = module.counters
        self.points.append(Point(sums.updates, sums.attempts, sums.tokens, self.seconds, reward, held_out))


def share_right(policy: TinyPolicy, rows: Sequence[Mapping[str, Any]]) -> float:
    """Of attempts at these rows, always with the same draws."""
    keys = attempt_keys(1, 0, torch.arange(len(rows)), LOOKS)
    made = policy.sample([row["prompt"] for row in rows], LOOKS, keys, max_tokens=MAX_TOKENS, temperature=1.0)
    right = [text == rows[place // LOOKS]["answer"] for place, text in enumerate(made.texts)]
    return sum(right) / len(right)


@cache
def data_of(seed: int) -> Arithmetic:
    data = Arithmetic(CATEGORIES, PER_CATEGORY, HELD_OUT, PROMPTS, seed=seed)
    data.setup("fit")
    return data


@cache
def policy_of(seed: int, steps: int) -> TinyPolicy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = TinyPolicy(context=16)
    shares = dict.fromkeys((*SOLVED, *LEARNT), 1)
    started: TinyPolicy = started_on_sums(policy, data_of(seed), shares, LEARNT, steps=steps, seed=seed)
    return started


def train(arm: Arm, seed: int, settings: Settings) -> tuple[Curve, Any]:
    """One run. The sums, the policy at the start, and uniform's order depend on the seed alone."""
    data = data_of(seed)
    policy = copy.deepcopy(policy_of(seed, settings.start))
    shared = {
        "attempts": ATTEMPTS,
        "max_tokens": MAX_TOKENS,
        "lr": settings.lr,
        "warmup": settings.warmup,
        "show_every": 0,
        "seed": seed,
    }
    module = GRPO(policy, ExactAnswer(), **(shared | dict(arm.module)))
    if arm.sampler is None:
        order = torch.Generator().manual_seed(seed)
        sampler: Any = RandomSampler(data.rows, replacement=True, num_samples=1 << 20, generator=order)
    else:
        sampler = BetaPosterior(data.rows, **arm.sampler, num_samples=1 << 20, seed=seed)
    loader = DataLoader(data.rows, PROMPTS, sampler=sampler)
    chosen = torch.randperm(len(data.rows), generator=torch.Generator().manual_seed(seed))[:SHOWN].tolist()
    held_out = [data.held_out_rows[row] for row in range(len(data.held_out_rows))]
    curve = Curve([data.rows[row] for row in chosen], held_out, settings)
    callbacks = [curve] if arm.sampler is None else [SamplerFeedback(), curve]
    without = Trainer(**QUIET, max_epochs=-1, callbacks=callbacks)
    (without if arm.sampler else without_attached(without)).fit(module, loader)
    return curve, module.counters
