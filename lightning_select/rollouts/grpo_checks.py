"""Checks of what `GRPO` is given, with messages that name the rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_select.errors import ArgumentError, BatchFormatError, ConfigurationError
from lightning_select.rollouts.policy import Policy
from lightning_select.rollouts.refill import Refill
from lightning_select.rollouts.screening import Screening
from lightning_select.signals.sharded import sharding_strategy

__all__ = [
    "check_counts",
    "check_parts",
    "check_rates",
    "check_reference",
    "check_trainer",
    "checked_pass_at",
    "checked_refill",
    "prompts_of",
]

_LEAST = {"warmup": 0, "show_every": 0}
_ANY_SIGN = frozenset({"solved_at"})
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
        fits = math.isfinite(number) and (number >= 0 or name in _ANY_SIGN) and (number or name not in _ABOVE_ZERO)
        if not fits:
            rule = "above 0" if name in _ABOVE_ZERO else "of any sign" if name in _ANY_SIGN else "that is not negative"
            raise ArgumentError(f"GRPO.{name} must be a finite number {rule}, got {value!r}.")


def check_parts(
    policy: Any,
    reward: Any,
    metric: Any,
    group_filter: Any,
    screening: Screening | None,
    attempts: int,
    optimizer: Any,
    seed: Any,
) -> None:
    """Parts of the right kind, which fit each other.

    Raises:
        ArgumentError: They are not.
    """
    if not isinstance(policy, nn.Module) or not isinstance(policy, Policy):
        raise ArgumentError(
            f"GRPO.policy must be an nn.Module with the methods sample, log_probs and reference, got {policy!r}."
        )
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ArgumentError(f"GRPO.seed must be a whole number, got {seed!r}.")
    if optimizer is not None and not callable(optimizer):
        raise ArgumentError(f"GRPO.optimizer must be callable with the parameters, got {optimizer!r}.")
    for name, part in (("reward", reward), ("metric", metric), ("group_filter", group_filter)):
        if (part is not None or name == "reward") and (not callable(part) or isinstance(part, type)):
            raise ArgumentError(f"GRPO.{name} must be callable and no class, got {part!r}.")
    if screening is not None and not isinstance(screening, Screening):
        raise ArgumentError(f"GRPO.screening must be a Screening or None, got {screening!r}.")
    if attempts < 2:
        raise ArgumentError(
            f"GRPO.attempts must be at least 2, since attempts are judged against each other, got {attempts}."
        )
    if screening is not None and screening.attempts >= attempts:
        raise ArgumentError(
            f"Screening.attempts must be below GRPO.attempts={attempts}, so that something is left to save, got "
            f"{screening.attempts}."
        )


def checked_refill(refill: Refill | None, group_filter: Any) -> Refill:
    """How groups are gathered: as asked for, else over several rounds where a filter leaves some out.

    Raises:
        ArgumentError: A band is to be widened, and there is none.
    """
    if refill is not None and not isinstance(refill, Refill):
        raise ArgumentError(f"GRPO.refill must be a Refill or None, got {refill!r}.")
    refill = refill or (Refill(max_rounds=1) if group_filter is None else Refill())
    if refill.on_shortfall == "relax_band" and not hasattr(group_filter, "widened"):
        name = "no filter" if group_filter is None else type(group_filter).__name__
        raise ArgumentError(
            f'Refill.on_shortfall="relax_band" must go with a filter that has a band (Balanced), got {name}.'
        )
    return refill


def checked_pass_at(pass_at: Sequence[int]) -> tuple[int, ...]:
    """The numbers of attempts as a tuple: a config has them as a list.

    Raises:
        ArgumentError: They are no whole numbers of at least one.
    """
    numbers = tuple(pass_at) if isinstance(pass_at, Sequence) else ()
    if not numbers or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in numbers):
        raise ArgumentError(f"GRPO.pass_at must be whole numbers of at least 1, got {pass_at!r}.")
    return numbers


def check_trainer(trainer: Any) -> None:
    """Attempts are made by a policy that is whole on its device, and gradients are clipped as they are.

    Raises:
        ConfigurationError: The strategy splits it, or the precision scales gradients.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ConfigurationError(
            f"GRPO must train in a precision that needs no scaling of gradients, got {trainer.precision}. Take "
            "bf16-mixed or 32-true."
        )
    if sharding_strategy(trainer.strategy):
        strategy = type(trainer.strategy).__name__
        raise ConfigurationError(
            f"GRPO must have the whole policy on every device to make attempts, got Trainer(strategy={strategy}). "
            'Use strategy="ddp" or one device, or override GRPO.generate.'
        )


def check_reference(state: Mapping[str, Any], reference: Any) -> None:
    """A resumed run has the divergence that it had.

    Raises:
        ConfigurationError: The checkpoint has a reference of its own and this module has none, or the other way round.
    """
    kept = any(name.startswith("reference.") for name in state)
    if isinstance(reference, nn.Module) != kept:
        had, has = ("one", "none") if kept else ("none", "one")
        raise ConfigurationError(
            f"GRPO.kl must be as in the run that saved the checkpoint, which has {had} of the reference policies that "
            f"kl asks for, got a module with {has}."
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
