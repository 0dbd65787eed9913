"""A short supervised start, so that a policy solves some prompts before it learns from rewards.

Rewards teach nothing where no attempt ever succeeds, and a model with random weights never does. A few steps on solved
prompts bring it to where some are solved always, some never, and many now and then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from lightning_select.app.data.arithmetic import Arithmetic
from lightning_select.app.data.prompt_file import check_count
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.seeding import generator_at

__all__ = ["started_on_sums", "warm_start"]

_WARM_UP = 0.05
"""Share of the steps over which the learning rate rises."""

_BETAS = (0.9, 0.99)
_CLIP = 1.0
"""Largest norm of a gradient. Without it, or with Adam's own betas, a small transformer learns half as fast."""


def warm_start(
    policy: Any,
    prompts: Sequence[str],
    completions: Sequence[str],
    steps: int = 500,
    batch_size: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
) -> float:
    """Train a policy on solved prompts, and return its loss on the last batch; NaN where there was no step.

    Adam, with a learning rate that rises for a twentieth of the steps and then falls to zero along half a cosine. The
    pairs come in a random order that is drawn anew at every pass. Dropout is off, as it is while a policy samples, and
    no global generator is used: the same weights and arguments give the same policy. Parameters without
    ``requires_grad`` stay as they are, and so do the modes of all modules.

    Args:
        policy: A module with ``supervise(prompts, completions) -> loss``.
        prompts: Prompts.
        completions: The right completion of each.
        steps: Steps of the optimizer.
        batch_size: Pairs of a step; all of them, where they are fewer.
        lr: Learning rate at its highest.
        seed: Seed of the order.

    Raises:
        ArgumentError: A value is out of range, there is not one completion per prompt, or the loss is not finite.
        ConfigurationError: The policy has no ``supervise``.
    """
    _check(policy, prompts, completions, lr)
    check_count("warm_start", "steps", steps, 0)
    batches = _batches(len(prompts), check_count("warm_start", "batch_size", batch_size, 1), seed)
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    modes = {module: module.training for module in policy.modules()}
    optimizer = torch.optim.Adam(trained, lr, _BETAS)
    loss = torch.tensor(math.nan)
    policy.eval()
    try:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * _shape(step / steps)
            rows = next(batches)
            loss = policy.supervise([prompts[row] for row in rows], [completions[row] for row in rows])
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(trained, _CLIP)
            optimizer.step()
    finally:
        optimizer.zero_grad()
        for module, mode in modes.items():
            module.training = mode
    last = float(loss.detach())
    if steps and not math.isfinite(last):
        raise ArgumentError(f"warm_start.lr must keep the loss finite, got {lr} and a loss of {last}.")
    return last


def started_on_sums(
    policy: Any,
    data: Arithmetic,
    shares: Mapping[str, int | float] | None = None,
    wrong: Mapping[str, int | float] | None = None,
    steps: int = 500,
    batch_size: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
) -> Any:
    """The policy, after a start on sums that the data do not validate on; for a config, where a policy is asked for.

    Args:
        policy: A module with ``supervise(prompts, completions) -> loss``.
        data: The data that it is going to learn from.
        shares: Share of each category, relative to the others, 0 for one that is not named; ``None``: all alike.
        wrong: Share of wrong answers in each category, 0 for one that is not named.
        steps: Steps of the optimizer.
        batch_size: Sums of a step.
        lr: Learning rate at its highest.
        seed: Seed of the order.

    Raises:
        ArgumentError: A value is out of range.
        ConfigurationError: The policy has no ``supervise``.
    """
    count = check_count("started_on_sums", "steps", steps, 1) * check_count(
        "started_on_sums", "batch_size", batch_size, 1
    )
    prompts, completions = data.examples(count, shares, wrong)
    warm_start(policy, prompts, completions, steps, batch_size, lr, seed)
    return policy


def _shape(done: float) -> float:
    """The learning rate as a share of the highest."""
    return min(1.0, (done + 1e-3) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))


def _batches(rows: int, size: int, seed: int) -> Iterator[list[int]]:
    """Positions, each once in a random order, and again in another one."""
    draw = generator_at(torch.device("cpu"), seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < min(size, rows):
            waiting += torch.randperm(rows, generator=draw).tolist()
        yield waiting[:size]
        waiting = waiting[size:]


def _check(policy: Any, prompts: Sequence[str], completions: Sequence[str], lr: float) -> None:
    if not callable(getattr(policy, "supervise", None)):
        raise ConfigurationError(
            "warm_start.policy must have a method supervise(prompts, completions) that returns a loss, got "
            f"{type(policy).__name__}. Begin with a policy that is trained already."
        )
    if not prompts or len(prompts) != len(completions):
        raise ArgumentError(
            f"warm_start.completions must be one for each of at least one prompt, got {len(completions)} for "
            f"{len(prompts)}."
        )
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 < lr < math.inf:
        raise ArgumentError(f"warm_start.lr must be a finite number above 0, got {lr!r}.")
