"""Training on rewards: a tiny transformer learns sums of one digit from nothing but whether its attempts were right.

Prints the share of right greedy answers, per seed, for GRPO on every group of attempts, for GRPO that leaves out groups
which all fail or all succeed, and for the former with as many updates as the latter. The filter makes an update worth
more and spends more attempts on it, so it pays where updates are dear. Needs nothing beside lightning-select.
"""

import argparse
import logging
from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader, RandomSampler

from lightning_select.rollouts.grpo import GRPO
from lightning_select.rollouts.tiny_policy import TinyPolicy
from lightning_select.rollouts.zero_variance import ZeroVariance

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
SUMS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(10 - a)]


def right(prompts: Sequence[str], completions: Sequence[str], batch: dict[str, list[str]]) -> list[float]:
    """A reward is any function of this shape; lightning_select.rollouts.rewards has two that are more forgiving."""
    return [float(one == answer) for one, answer in zip(completions, batch["answer"], strict=True)]


def trained(seed: int, rounds: int, group_filter: ZeroVariance | None = None) -> tuple[int, str]:
    seed_everything(seed, verbose=False)
    settings = {"attempts": 8, "max_tokens": 1, "lr": 1e-3, "warmup": 5, "show_every": 0, "pass_at": (1,)}
    module = GRPO(TinyPolicy(width=32, context=8), right, group_filter=group_filter, seed=seed, **settings)
    trainer = Trainer(max_epochs=1, accelerator="cpu", **QUIET)
    trainer.fit(module, DataLoader(SUMS, 32, sampler=RandomSampler(SUMS, num_samples=32 * rounds)))
    greedy = trainer.validate(module, DataLoader(SUMS, len(SUMS)), verbose=False)[0]["val/greedy"]
    sums = module.counters
    return sums.updates, f"{greedy:.3f} after {sums.updates} updates and {sums.attempts} attempts"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="batches of 32 prompts, each attempted 8 times")
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    for seed in range(chosen.seeds):
        _, plain = trained(seed, chosen.rounds)
        updates, filtered = trained(seed, chosen.rounds, ZeroVariance())
        _, equal = trained(seed, max(1, updates))
        told = f"  every group {plain}\n  filtered    {filtered}\n  every group {equal}"
        print(f"seed {seed}, right greedy answers:\n{told}")


if __name__ == "__main__":
    main()
