"""The way out for steps that show no rows: a module that says itself what is known of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_select.batch import shallow_copy
from lightning_select.signals.base import Signals
from lightning_select.signals.contract import contract_error
from lightning_select.signals.recording.capture import Capture
from lightning_select.signals.traceless.surroundings import Surroundings
from lightning_select.types import Batch

__all__ = ["asked"]


def asked(module: nn.Module, surroundings: Surroundings, batch: Batch, rows: int) -> Signals:
    """What ``module.selection_step`` returns, called without leaving a trace.

    Raises:
        TrainingStepContractError: It returned something else than signals of every row.
    """
    selection_step: Any = module.selection_step

    def ask() -> Any:
        with surroundings.around(batch), Capture(before_write=surroundings.keeper.before_write):
            return selection_step(shallow_copy(batch))

    signals = surroundings.attempt(ask)
    if not isinstance(signals, Signals) or signals.rows != rows:
        seen = f"{type(signals).__name__} for {getattr(signals, 'rows', None)} rows"
        raise contract_error(module, f"from selection_step {seen}, where Signals for {rows} rows were due")
    return signals
