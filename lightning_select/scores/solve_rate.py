"""Solve rate: how often the model gets a row right, between 0 (never) and 1 (always).

Neither end teaches much: what is always solved is known, and what is never solved gives no example of success. So this
score is meant for a selector that keeps a band in the middle; with top-k it keeps the easiest rows.

References:
    Bae et al., "Online Difficulty Filtering for Reasoning Oriented Reinforcement Learning", EACL 2026,
    arXiv:2504.03380: the mean reward of the attempts at a prompt.

Deviations:
    Attempts whose reward is NaN could not be scored and do not count. Where there are no attempts (ordinary supervised
    training) the probability of the target stands in for the rate; for several tokens or labels it is the geometric
    mean of theirs, so that a long row is not hard for being long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.signals.base import Signals
from lightning_select.types import Bool, Float, Num

__all__ = ["SolveRate", "solve_rate", "target_probability"]

_NEEDS = {
    "auto": frozenset({"logits", "targets"}),
    "reward": frozenset({"reward"}),
    "correct": frozenset({"correct"}),
    "probability": frozenset({"logits", "targets"}),
}


def solve_rate(rewards: Num[Tensor, "rows *attempts"]) -> Float[Tensor, "rows"]:
    """Mean reward of the attempts at each row; attempts that are NaN do not count, and a row with no other is NaN."""
    return rewards.float().reshape(rewards.shape[0], -1).nanmean(dim=1)


def target_probability(
    logits: Float[Tensor, "rows *tokens classes"],
    targets: Num[Tensor, "rows *rest"],
    valid: Bool[Tensor, "rows *tokens"] | None = None,
    *,
    link: Literal["softmax", "sigmoid"] = "softmax",
) -> Float[Tensor, "rows"]:
    """``exp`` of the mean log-probability of the targets: ``p_y`` for one class, the geometric mean for several.

    Targets that are probabilities weigh the log-probabilities of the classes. A row without valid tokens has no rate
    and is NaN, and so is one with a target that is no class.
    """
    logits, rows = logits.float(), logits.shape[0]
    if link == "sigmoid":
        likely = targets.reshape(logits.shape).float()
        values = (_times(likely, F.logsigmoid(logits)) + _times(1.0 - likely, F.logsigmoid(-logits))).mean(dim=-1)
    elif targets.dim() == logits.dim():
        values = _times(targets.float(), torch.log_softmax(logits, dim=-1)).sum(dim=-1)
    else:
        index = targets.long().unsqueeze(-1)
        known = (index >= 0) & (index < logits.shape[-1])
        found = torch.log_softmax(logits, dim=-1).gather(-1, torch.where(known, index, 0))
        values = torch.where(known, found, torch.nan).squeeze(-1)
    if valid is None:
        return values.reshape(rows, -1).mean(dim=1).exp()
    total = torch.where(valid, values, 0.0).reshape(rows, -1).sum(dim=1)
    return (total / valid.reshape(rows, -1).sum(dim=1)).exp()


def _times(weights: Float[Tensor, "*shape"], logs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The product, where a weight of 0 silences the logarithm of 0."""
    return torch.where(weights == 0, 0.0, weights * logs)


@dataclass(frozen=True)
class SolveRate:
    """Score rows by how often they are solved.

    Args:
        source: What tells it. ``reward``: the mean over attempts of rewards in [0, 1]. ``correct``: the share of right
            answers, as it is. ``probability``: the probability of the target. ``auto``: the first of these that is
            there. Rewards and correctness come from a ``selection_step``.

    Raises:
        ArgumentError: A value is out of range.
        MissingSignalError: The source was not measured.

    Example:
        >>> SolveRate()(Signals(reward=torch.tensor([[1.0, 0.0], [1.0, float("nan")]]))).tolist()
        [0.5, 1.0]
    """

    source: Literal["auto", "reward", "correct", "probability"] = "auto"

    def __post_init__(self) -> None:
        if self.source not in tuple(_NEEDS):  # from Hydra it may be a list, which no table can be asked for
            raise ArgumentError(f"SolveRate.source must be one of {', '.join(_NEEDS)}, got {self.source!r}.")

    @property
    def needs(self) -> frozenset[str]:
        """What the source is read from; with ``auto`` what an ordinary training step can show."""
        return _NEEDS[self.source]

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """One score per row."""
        source: str = self.source
        if source == "auto":
            source = next((name for name in ("reward", "correct") if name in signals.measured), "probability")
        if source == "reward":
            return solve_rate(signals.need("reward", "SolveRate"))
        if source == "correct":
            return signals.need("correct", "SolveRate").float()
        logits, targets = signals.need("logits", "SolveRate"), signals.need("targets", "SolveRate")
        return target_probability(logits, targets, signals.valid, link=signals.link)
