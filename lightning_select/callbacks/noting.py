"""Note, batch by batch, what is offered, what is taken, and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_select.callbacks.gathering import Gathering
from lightning_select.callbacks.interception import Interception
from lightning_select.reports.margins import margins_of
from lightning_select.reports.row_record import RowRecord, StepRows
from lightning_select.reports.snapshots import Snapshots
from lightning_select.reports.step_rows import Said, step_rows
from lightning_select.signals.base import Signals
from lightning_select.states import check_range, check_state

__all__ = ["Noting"]


class Noting:
    """The record of one fit, the same on all ranks.

    Args:
        rows: Length of the dataset.
        device: Device of the model.
        unit: Whether periods count epochs or steps.
        size: How many rows of a batch there can be, as the loader says; 0 where nobody knows.
        steady: Is no batch larger than the first?
        amid: Is the first batch one amid an epoch, which may be its short last one?

    Attributes:
        record: What is known of every row.
        snapshots: What is known of single batches.
        offered: Rows of this rank in batches so far, before any selection.
    """

    def __init__(self, rows: int, device: torch.device, *, unit: str, size: int, steady: bool, amid: bool) -> None:
        self.record = RowRecord(rows, device=device)
        self.record.periods.unit = unit
        self.snapshots = Snapshots()
        self.offered = 0
        self._gathering = Gathering("SelectionReport", rows=size, steady=steady, amid=amid)
        self._epoch: int | None = None
        self._scored: list[Said] = []
        self._heard: Signals | None = None

    def overhear(self, taken: Tensor | None, signals: Signals, scores: Tensor, *, margins: bool) -> None:
        """Another callback scored the rows at the positions ``taken`` of the batch (``None``: all of them)."""
        known = margins_of(signals) if margins else None
        self._scored.append(Said(taken, signals.loss, known, scores))

    def hear(self, signals: Signals) -> None:
        """The training step said this of the rows that were taken."""
        self._heard = signals

    def close(self, interception: Interception, step: int, epoch: int, group: Tensor | None, *, margins: bool) -> None:
        """Enter the batch that was just trained on."""
        scored, self._scored, heard, self._heard = self._scored, [], self._heard, None
        if epoch != self._epoch and self._epoch is not None:
            self._gathering.next_epoch()
        self._epoch = epoch
        ids, taken = interception.offered, interception.taken
        if ids is None:
            return
        known = margins_of(heard) if heard is not None and margins else None
        loss = None if heard is None else heard.loss
        said = [*scored, Said(taken, loss, known)]
        rows = step_rows(ids, taken, interception.applied, said, group)
        trained = ids.shape[0] if taken is None else taken.shape[0]
        self.offered += ids.shape[0]
        if self.snapshots.due:
            nothing = torch.full((1,), torch.nan, device=ids.device)
            scores = scored[0].scores if scored and scored[0].scores is not None else nothing
            share = torch.full((), trained / max(ids.shape[0], 1), device=ids.device)
            self.snapshots.add(step, epoch, scores, nothing if loss is None else loss, share)
        self.snapshots.count()
        everyone = StepRows(self._gathering.ids(rows.ids), self._gathering.values(rows.values))
        self.record.update(everyone, epoch if self.record.periods.unit == "epoch" else step)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        parts = {"record": self.record.state_dict(), "snapshots": self.snapshots.state_dict()}
        return {**parts, "offered": self.offered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` gave.

        Raises:
            ConfigurationError: It is damaged, or of a dataset of another length.
        """
        parts = {name: state.get(name) for name in ("record", "snapshots")} if isinstance(state, Mapping) else {}
        check_state("SelectionReport", state, {**parts, "offered": 0})
        check_range("SelectionReport", "offered", state["offered"], 0)
        self.record.load_state_dict(state["record"])
        self.snapshots.load_state_dict(state["snapshots"])
        self.offered = state["offered"]
