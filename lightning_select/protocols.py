"""What a score, a selector and a weighting look like to the callbacks. Any object of that shape will do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_select.signals.base import Signals
from lightning_select.types import Float, Selection, State

__all__ = ["Score", "SelectionContext", "Selector", "Weighting"]


@dataclass(frozen=True)
class SelectionContext:
    """What a selector may look at besides the scores.

    Attributes:
        signals: The signals of the candidate rows, for selectors that compare rows with each other.
        generator: Source of randomness on the device of the scores: a function of (seed, step, rank), so that a
            resumed run draws what the uninterrupted one would have drawn.
        state: What the selector put into its last `Selection`; empty at the first call.
        step: Optimiser step.
    """

    signals: Signals
    generator: torch.Generator
    state: State = field(default_factory=dict)
    step: int = 0


@runtime_checkable
class Score(Protocol):
    """Signals to one number per row; higher means more useful.

    A plain function ``signals -> scores`` is a score as well. It declares no needs, so it finds the loss, and logits
    and targets where the training step shows them.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Names of the `Signals` that must be measured."""

    def __call__(self, signals: Signals) -> Float[Tensor, "rows"]:
        """Score every row."""


@runtime_checkable
class Selector(Protocol):
    """Scores to the positions of exactly ``count`` rows, with weights where rows do not count the same."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the `Signals` that must be measured besides those of the score."""

    @property
    def with_replacement(self) -> bool:
        """May a row be chosen twice?"""

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows."""


@runtime_checkable
class Weighting(Protocol):
    """Losses of all rows of all ranks to their weights. A plain function ``losses -> weights`` will do.

    It sees finite losses only: a row without one shows the mean of the others and gets no weight afterwards, and the
    weights are brought to mean one. A weighting that does all that by itself says so by an attribute ``normalised =
    True``. It is shown the losses as they are, and its weights are taken as they are: finite and of mean one over the
    rows whose loss is finite, and zero for the others.
    """

    def __call__(self, losses: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """Weigh every row."""
