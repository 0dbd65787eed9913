"""What a policy can do on prompts that it is not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_select import distributed
from lightning_select.rollouts.grpo_checks import prompts_of
from lightning_select.rollouts.pass_at_k import pass_at_k
from lightning_select.rollouts.reward import repeated
from lightning_select.rollouts.uniforms import attempt_keys

__all__ = ["evaluate"]

_APART = 1 << 40
"""Rounds of validation draw from other numbers than those of training."""


@torch.no_grad()
def evaluate(module: Any, prefix: str, batch: Mapping[str, Any], batch_idx: int) -> None:
    """Log ``greedy``, the share of right greedy attempts, ``pass@k``, and the mean ``reward`` of sampled attempts.

    The same attempts are drawn in every validation, so that two of them differ by the policy alone. An attempt that
    cannot be scored is not right.
    """
    prompts = prompts_of(batch, module.prompt_key)
    rows, most = len(prompts), max(module.pass_at)
    places = torch.arange(rows) * distributed.world_size() + distributed.rank()
    keys = attempt_keys(module.seed, _APART + batch_idx, places, most)

    def asked(attempts: int, temperature: float) -> tuple[Any, Any]:
        chosen = keys.view(rows, most)[:, :attempts].flatten()
        sizes = {"temperature": temperature, "max_tokens": module.max_tokens}
        texts = module.generate(prompts, attempts, chosen, **sizes).texts
        index = [row for row in range(rows) for _ in range(attempts)]
        told = [prompts[row] for row in index], texts, repeated(batch, rows, index)
        rewards = module.rounds.reward(*told)
        metric = rewards if module.rounds.metric is None else module.rounds.metric(*told)
        return rewards.view(rows, attempts), (metric >= module.solved_at).view(rows, attempts).sum(dim=1)

    _, greedy = asked(1, 0.0)
    rewards, right = asked(most, module.temperature)
    found = {"greedy": greedy.float().mean()}
    found |= {f"pass@{k}": pass_at_k(right, most, k).mean().float() for k in module.pass_at}
    for name, value in found.items():
        module.log(f"{prefix}/{name}", value, on_step=False, on_epoch=True, batch_size=rows, sync_dist=True)
    # A mean over what was scored, whichever batch that is in.
    scored, reward = int(rewards.isfinite().sum()), rewards.nanmean().nan_to_num(nan=0.0)
    module.log(f"{prefix}/reward", reward, on_step=False, on_epoch=True, batch_size=scored, sync_dist=True)
