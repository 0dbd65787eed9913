"""The way out for steps that show no rows: a module that says itself what is known of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_select.batch import shallow_copy
from lightning_select.signals.base import Signals
from lightning_select.signals.contract import contract_error
from lightning_select.signals.recording.writes import Writes
from lightning_select.signals.traceless.surroundings import Surroundings
from lightning_select.types import Batch

__all__ = ["asked"]


def asked(
    module: nn.Module, surroundings: Surroundings, batch: Batch, rows: int, *, differentiated: bool = False
) -> Signals:
    """What ``module.selection_step`` returns, called without leaving a trace.

    Args:
        module: The module.
        surroundings: What it finds around it.
        batch: The batch.
        rows: Number of its rows.
        differentiated: Let the losses have a graph, which is differentiated later.

    Raises:
        TrainingStepContractError: It returned something else than signals of every row.
    """
    selection_step: Any = module.selection_step

    def ask() -> Any:
        with surroundings.around(batch, outlived=differentiated), Writes(surroundings.keeper.before_write):
            return selection_step(shallow_copy(batch))

    signals = surroundings.attempt(ask)
    if not isinstance(signals, Signals) or signals.rows != rows:
        seen = f"{type(signals).__name__} for {getattr(signals, 'rows', None)} rows"
        raise contract_error(module, f"from selection_step {seen}, where Signals for {rows} rows were due")
    return signals
