"""Checks of numbers that live on the device, without waiting for it in every step.

A rule that the numbers of a step may break is tested on the device and its outcome kept there, with the value that
broke it. `Verdicts.raise_broken` reads all outcomes at once: at the first active step, whenever the loggers are due
(they wait for the device anyway), at the end of an epoch and before a checkpoint is written. Until then a broken rule
does no harm, because the callbacks replace what is broken by what is neutral.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        "{owner} must find at least one row with a finite loss, got {got:.0f}. The model or its input holds NaN.",
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


class Verdicts:
    """Outcomes of the rules so far, on the device."""

    def __init__(self) -> None:
        self._got: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def note(self, owner: str, outcomes: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Remember which rules were broken.

        Args:
            owner: Who broke them, for the message.
            outcomes: For each rule by name, whether it was broken (a boolean tensor) and by what (a number).
        """
        key = (owner, tuple(outcomes))
        broken = torch.stack([broken for broken, _ in outcomes.values()])
        got = torch.stack([value.to(torch.float32) for _, value in outcomes.values()])
        now = torch.where(broken, got, math.nan)
        before = self._got.get(key)
        self._got[key] = now if before is None else torch.where(before.isnan(), now, before)

    def raise_broken(self) -> None:
        """Wait for the device and raise for the first broken rule.

        Raises:
            SelectionError: A rule was broken since the last call; the kind says which.
        """
        noted, self._got = self._got, {}
        for (owner, names), got in noted.items():
            for name, value in zip(names, got.tolist(), strict=True):
                if not math.isnan(value):
                    raise RULES[name].error(RULES[name].text.format(owner=owner, got=value))
