"""The bed of `rlvr_bed`: prompts, and a policy that learns from rewards of its own responses.

A prompt is a vector, a response is one of 20 classes drawn from a softmax policy, and it is rewarded with 1 where it is
the class of the prompt, else with 0. So how often a prompt is solved is known exactly, without drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from common import InMemory
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

__all__ = ["ATTEMPTS", "PROMPTS", "Band", "Curve", "Policy", "prompts_of", "warm_start"]

ITEMS, CLASSES, DIMS, ATTEMPTS, PROMPTS = 4000, 20, 32, 16, 32
STRENGTH, WARM_STEPS, RATE = 10.0, 2, 0.1
"""Of the signal in a prompt, and of training. Chosen so that *uniform* ends near the specification of the bed (0.63 of
attempts right, 0.65 of prompts informative); no other method was looked at."""

MOST_ROUNDS = 100
RESPONSES, FURTHER = 30_000, 40_000
"""Added to the seed of the prompts, so that no two things are drawn from one stream of numbers."""


def prompts_of(seed: int, items: int = ITEMS) -> InMemory:
    """Prompts and their classes.

    A prompt is the direction of its class times a strength, plus normal noise. The strength is ``10 sin(pi u / 2)^2``
    with u uniform: most prompts are either nearly noise or clear, so that difficulty is U-shaped.
    """
    draw = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(CLASSES, DIMS, generator=draw), dim=1)
    gold = torch.randint(CLASSES, (items,), generator=draw)
    strength = STRENGTH * torch.sin(torch.rand(items, 1, generator=draw) * torch.pi / 2).square()
    return InMemory(strength * directions[gold] + torch.randn(items, DIMS, generator=draw), gold)


def warm_start(prompts: InMemory) -> nn.Linear:
    """A policy after a little supervised training, so that some prompts are solved now and then."""
    x, gold = prompts.columns
    policy = nn.Linear(DIMS, CLASSES)
    nn.init.zeros_(policy.weight)
    nn.init.zeros_(policy.bias)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(WARM_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(policy(x), gold).backward()
        optimizer.step()
    return policy


@dataclass(frozen=True)
class Band:
    """Keep prompts of which this share of the attempts is right, both ends included."""

    low: float
    high: float

    def keeps(self, rewards: Tensor) -> Tensor:
        """Which prompts, given rewards (rows, attempts)."""
        share = rewards.mean(dim=1)
        return (share >= self.low) & (share <= self.high)


class Policy(LightningModule):
    """Group-relative policy gradient (GRPO): a response is as good as its reward is above those of the same prompt.

    With a band, prompts outside it are not trained on: further rounds of prompts are tried, drawn uniformly, until the
    update has as many as without; what is left over in the last round is dropped.
    """

    def __init__(self, prompts: InMemory, seed: int, band: Band | None = None) -> None:
        super().__init__()
        self.net, self.band = warm_start(prompts), band
        self.generated = 0
        self.informative: list[Tensor] = []
        self._prompts = prompts
        self._responses = torch.Generator().manual_seed(RESPONSES + seed)
        self._further = torch.Generator().manual_seed(FURTHER + seed)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Mapping[str, Tensor]:
        rounds = [self._attempt(batch)]
        while self.band is not None:
            if sum(len(rewards) for *_, rewards in rounds) >= PROMPTS:
                break
            if len(rounds) == MOST_ROUNDS:
                raise RuntimeError(f"{MOST_ROUNDS} rounds of prompts held too few between {self.band}")
            rows = torch.randint(len(self._prompts), (PROMPTS,), generator=self._further)
            rounds.append(self._attempt([column[rows] for column in self._prompts.columns]))
        x, responses, rewards = (torch.cat(parts)[:PROMPTS] for parts in zip(*rounds, strict=True))
        mean, deviation = rewards.mean(dim=1, keepdim=True), rewards.std(dim=1, keepdim=True)
        self.informative.append(((mean > 0) & (mean < 1)).float().mean())
        advantage = (rewards - mean) / (deviation + 1e-6)
        chances = self.net(x).log_softmax(dim=1).gather(1, responses)
        return {"loss": -(advantage * chances).mean(), "reward": rewards}

    @torch.no_grad()
    def _attempt(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts, responses and rewards, of the prompts in the band."""
        x, gold = batch
        chances = self.net(x).softmax(dim=1)
        responses = torch.multinomial(chances, ATTEMPTS, replacement=True, generator=self._responses)
        rewards = (responses == gold[:, None]).float()
        self.generated += 1
        if self.band is None:
            return x, responses, rewards
        kept = self.band.keeps(rewards)
        return x[kept], responses[kept], rewards[kept]

    @torch.no_grad()
    def figures(self) -> tuple[float, float]:
        """Over all prompts: chance of a right response, and share whose likeliest response is right."""
        x, gold = self._prompts.columns
        chances = self.net(x).softmax(dim=1)
        return float(chances.gather(1, gold[:, None]).mean()), float((chances.argmax(dim=1) == gold).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=RATE)


class Curve(Callback):
    """What the policy can do after the last update that a budget of generated batches pays for."""

    def __init__(self, budget: int) -> None:
        self.budget, self.updates, self.figures = budget, 0, (0.0, 0.0)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.generated <= self.budget:
            self.updates, self.figures = trainer.global_step, pl_module.figures()
