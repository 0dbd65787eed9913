"""Checks of numbers that live on the device, without waiting for it in every step.

The numbers that may break a rule are kept on the device and tested there, for many steps at once. `raise_broken` reads
the outcomes: at the first active step, whenever the loggers are due (they wait for the device anyway), at the end of an
epoch and before a checkpoint is written. Until then a broken rule does no harm, because the callbacks replace what is
broken by what is neutral.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_select.errors import NonFiniteScoreError, RowIdError, SelectionError, SelectorError, WeightError

__all__ = ["RULES", "Verdicts"]


@dataclass(frozen=True)
class Rule:
    """What must hold, and the error if it does not. ``{got}`` stands for the value that broke it."""

    error: type[SelectionError]
    text: str


RULES: Mapping[str, Rule] = {
    "reference_known": Rule(
        RowIdError,
        "{owner}.reference must hold a loss for every row id of a batch, got {got:.0f} rows without one.",
    ),
    "finite_scores": Rule(
        NonFiniteScoreError,
        "{owner} must find at least as many rows with a finite score as it keeps, got {got:.0f}. "
        "Look for NaN or inf in the losses of these rows.",
    ),
    "finite_losses": Rule(
        NonFiniteScoreError,
        "{owner} must find at least one row with a finite loss, got {got:.0f}. The model or its input holds NaN. "
        "Leave out rows whose input is not finite: 0 times NaN is NaN, so they spoil the model even at a weight of 0.",
    ),
    "index_range": Rule(SelectorError, "{owner} must return positions inside the batch, got {got:.0f}."),
    "index_twice": Rule(
        SelectorError,
        "{owner} must return every row at most once, got row {got:.0f} twice. "
        "A selector that draws with replacement says so: with_replacement = True.",
    ),
    "weight_finite": Rule(WeightError, "{owner} must return finite weights, got {got:.0f} that are not."),
    "weight_negative": Rule(WeightError, "{owner} must return weights that are not negative, got {got:.4g}."),
    "weight_sum": Rule(WeightError, "{owner} must return at least one weight above zero, got a sum of {got:.4g}."),
}


Check = Callable[..., "Mapping[str, tuple[Tensor, Tensor]]"]
"""From tensors of several steps, one step a line, to the rules by name: was it broken, and by what, step by step."""

_KEPT = 64
"""Steps whose tensors are kept before they are folded into one outcome for each rule."""


class Verdicts:
    """What the rules are to be tested on, and the outcomes so far, all on the device.

    A step only hands its tensors over; tests run on many steps at once, so that they cost next to nothing in each.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, Check], list[tuple[Tensor, ...]]] = {}
        self._got: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def note(self, owner: str, check: Check, *tensors: Tensor) -> None:
        """Have ``tensors`` tested later; they must not be changed in place until then.

        Args:
            owner: Who is to blame, for the message.
            check: Tests them.
            tensors: What ``check`` takes, of this step alone.
        """
        waiting = self._waiting.setdefault((owner, check), [])
        if waiting and (len(waiting) >= _KEPT or [a.shape for a in waiting[-1]] != [a.shape for a in tensors]):
            self._fold(owner, check)
            waiting = self._waiting.setdefault((owner, check), [])
        waiting.append(tensors)

    def raise_broken(self) -> None:
        """Wait for the device and raise for the first broken rule.

        Raises:
            SelectionError: A rule was broken since the last call; the kind says which.
        """
        for owner, check in list(self._waiting):
            self._fold(owner, check)
        noted, self._got = self._got, {}
        for (owner, names), got in noted.items():
            for name, value in zip(names, got.tolist(), strict=True):
                if not math.isnan(value):
                    raise RULES[name].error(RULES[name].text.format(owner=owner, got=value))

    def _fold(self, owner: str, check: Check) -> None:
        """Test what waits, and of each rule keep what broke it first."""
        waiting = self._waiting.pop((owner, check))
        outcomes = check(*(torch.stack(column) for column in zip(*waiting, strict=True)))
        broken = torch.stack([broken for broken, _ in outcomes.values()])
        got = torch.stack([value.to(torch.float32) for _, value in outcomes.values()])
        first = broken.to(torch.uint8).argmax(dim=1, keepdim=True)
        now = torch.where(broken.any(dim=1), got.gather(1, first).squeeze(1), math.nan)
        key = (owner, tuple(outcomes))
        before = self._got.get(key)
        self._got[key] = now if before is None else torch.where(before.isnan(), now, before)
