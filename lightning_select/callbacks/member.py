"""What an interception asks of the callbacks that share it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lightning_select.errors import TrainingStepContractError
from lightning_select.signals.base import Signals
from lightning_select.types import Batch

__all__ = ["Member"]


@runtime_checkable
class Member(Protocol):
    """What an interception asks of a callback."""

    def reshape(self, batch: Batch) -> tuple[Batch, Tensor | None, Tensor | None]:
        """The batch to train on, the rows taken (``None``: all), and their weights (``None``: all alike)."""

    def weighs(self) -> bool:
        """Will this callback weigh the rows of the batch now in training?"""

    def weigh(self, losses: Tensor | None) -> Tensor | None:
        """Weights of the rows with these losses."""

    @property
    def wants(self) -> frozenset[str]:
        """Signals of the training step that this callback wants to hear; none, and it hears nothing."""

    def hear(self, signals: Signals) -> None:
        """Be told the signals of the rows of the batch now in training."""

    @property
    def insists(self) -> bool:
        """Must a step that cannot be read be an error, or can this callback do without?"""

    def cannot_hear(self, error: TrainingStepContractError) -> None:
        """Be told why there are no signals of rows of the batch; one that insists raises the error."""

    def overhear(self, signals: Signals, scores: Tensor) -> None:
        """Be told what another callback saw of the candidate rows, and their scores."""

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Step out; the fit is over, however it ended."""
