"""Checks of what `GRPO` is given, with messages that name the rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from torch import nn

from lightning_select.errors import ArgumentError, BatchFormatError, ConfigurationError
from lightning_select.rollouts.policy import Policy
from lightning_select.rollouts.refill import Refill
from lightning_select.rollouts.screening import Screening
from lightning_select.rollouts.training_rows import Scale

__all__ = [
    "check_counts",
    "check_parts",
    "check_rates",
    "check_refill",
    "check_scale",
    "check_trainer",
    "checked_pass_at",
    "fitted",
    "prompts_of",
]

_LEAST = {"warmup": 0, "show_every": 0}
_ABOVE_ZERO = frozenset({"temperature", "lr", "gradient_clip"})


def check_counts(**counts: int | None) -> None:
    """Whole numbers of at least one; of at least none for ``warmup`` and ``show_every``.

    Raises:
        ArgumentError: One is not.
    """
    for name, value in counts.items():
        least = _LEAST.get(name, 1)
        if value is None and name == "micro_batch":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"GRPO.{name} must be a whole number of at least {least}, got {value!r}.")


def check_rates(**rates: float | None) -> None:
    """Finite numbers that are not negative, and above zero where zero would mean that nothing is learnt.

    Raises:
        ArgumentError: One is not.
    """
    for name, value in rates.items():
        if value is None and name == "gradient_clip":
            continue
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else value
        if not 0 <= number < math.inf or (number == 0 and name in _ABOVE_ZERO):
            rule = "above 0" if name in _ABOVE_ZERO else "that is not negative"
            raise ArgumentError(f"GRPO.{name} must be a finite number {rule}, got {value!r}.")


def check_parts(
    policy: Any, reward: Any, metric: Any, group_filter: Any, loss: Any, screening: Screening | None, attempts: int
) -> None:
    """Parts of the right kind, which fit each other.

    Raises:
        ArgumentError: They are not.
    """
    if not isinstance(policy, nn.Module) or not isinstance(policy, Policy):
        raise ArgumentError(
            f"GRPO.policy must be an nn.Module with the methods sample, log_probs and reference, got {policy!r}."
        )
    for name, part in (("reward", reward), ("metric", metric), ("group_filter", group_filter), ("loss", loss)):
        if (part is not None or name == "reward") and (not callable(part) or isinstance(part, type)):
            raise ArgumentError(f"GRPO.{name} must be callable and no class, got {part!r}.")
    if loss is not None and not callable(getattr(loss, "reduce", None)):
        raise ArgumentError(f"GRPO.loss must have a method reduce(terms, mask, totals), got {loss!r}.")
    if attempts < 2:
        raise ArgumentError(
            f"GRPO.attempts must be at least 2, since attempts are judged against each other, got {attempts}."
        )
    if screening is not None and screening.attempts >= attempts:
        raise ArgumentError(
            f"Screening.attempts must be below GRPO.attempts={attempts}, so that something is left to save, got "
            f"{screening.attempts}."
        )


def check_scale(scale: Any) -> None:
    """One of the names that there are.

    Raises:
        ArgumentError: It is not.
    """
    if scale not in get_args(Scale):
        raise ArgumentError(f"GRPO.scale must be one of {', '.join(get_args(Scale))}, got {scale!r}.")


def check_refill(refill: Refill, group_filter: Any) -> None:
    """A band can only be widened where there is one.

    Raises:
        ArgumentError: There is none.
    """
    if refill.on_shortfall == "relax_band" and not hasattr(group_filter, "widened"):
        name = "no filter" if group_filter is None else type(group_filter).__name__
        raise ArgumentError(
            f'Refill.on_shortfall="relax_band" must go with a filter that has a band (Balanced), got {name}.'
        )


def checked_pass_at(pass_at: Sequence[int]) -> tuple[int, ...]:
    """The numbers of attempts as a tuple: a config has them as a list.

    Raises:
        ArgumentError: They are no whole numbers of at least one.
    """
    numbers = tuple(pass_at) if isinstance(pass_at, Sequence) else ()
    if not numbers or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in numbers):
        raise ArgumentError(f"GRPO.pass_at must be whole numbers of at least 1, got {pass_at!r}.")
    return numbers


def fitted(loss: Any, max_tokens: int) -> Any:
    """The loss, which learns how long a completion may be if it has to know."""
    return replace(loss, max_tokens=max_tokens) if getattr(loss, "max_tokens", 0) is None else loss


def check_trainer(trainer: Any) -> None:
    """Attempts are made by a policy that is whole on its device.

    Raises:
        ConfigurationError: The strategy splits it.
    """
    strategy = type(trainer.strategy).__name__
    if any(kind in strategy for kind in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise ConfigurationError(
            f"GRPO must have the whole policy on every device to make attempts, got Trainer(strategy={strategy}). "
            'Use strategy="ddp" or one device, or override GRPO.generate.'
        )


def prompts_of(batch: Any, key: str) -> list[str]:
    """The prompts of a batch.

    Raises:
        BatchFormatError: There are none where they should be.
    """
    found = batch.get(key) if isinstance(batch, Mapping) else None
    if isinstance(found, str) or not isinstance(found, Sequence) or not all(isinstance(one, str) for one in found):
        got = f"{type(batch).__name__} with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch)
        raise BatchFormatError(f'A batch for GRPO must be a mapping with a list of strings under "{key}", got {got}.')
    if not found:
        raise BatchFormatError("A batch for GRPO must hold at least one prompt, got an empty batch.")
    return list(found)
