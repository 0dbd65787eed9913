"""What is noted of every row of a dataset while a model trains, on the device of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.reports.periods import MOST, UNITS, Periods
from lightning_select.reports.row_table import RowTable
from lightning_select.states import broken_state, check_range, check_state
from lightning_select.types import Float, Int, Tensor

__all__ = ["RowRecord", "StepRows"]

_SUMS = ("offered", "chosen", "weight", "loss", "losses", "score", "scores", "margin", "confidence", "agreed", "visits")
_REPLACED = ("loss", "label", "suggestion", "group")
_LATEST = (*_REPLACED, "right", "forgettings", "learnt_at")
_UNKNOWN = (float("nan"), -1.0, -1.0, -1.0, -1.0, 0.0, -1.0)


@dataclass(frozen=True)
class StepRows:
    """What one step said about the rows of its batch as it was loaded; NaN where it said nothing.

    Attributes:
        ids: Rows of the dataset; -1 is padding.
        values: The columns of `StepRows.NAMES`, shape (rows, columns); ``chosen`` is always known.
    """

    NAMES = ("chosen", "weight", "group", "loss", "score", "margin", "confidence", "agreed", "label", "suggestion")

    ids: Int[Tensor, "rows"]
    values: Float[Tensor, "rows columns"]


_VALUE = {name: place for place, name in enumerate(StepRows.NAMES)}
_CHOSEN, _MARGIN, _AGREED = (_VALUE[name] for name in ("chosen", "margin", "agreed"))
_COUNTED = {"offered": "chosen", "losses": "loss", "scores": "score", "visits": "margin"}
"""Sums that count where a value is known, by that value."""


class RowRecord:
    """Sums, latest values and choices of every row.

    Memory is 72 bytes per row and 32 for the choices by period: 104 MB for 1e6 rows. Every step costs some twenty
    small operations on the device and never waits for it. Float32 counts are exact up to 2^24 visits of a row.

    Args:
        rows: Length of the dataset.
        device: Where the record lives.

    Raises:
        ArgumentError: ``rows`` is no positive whole number.
    """

    def __init__(self, rows: int, *, device: torch.device | str | None = None) -> None:
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise ArgumentError(f"RowRecord.rows must be a whole number, at least 1, got {rows!r}.")
        self.rows = rows
        self.periods = Periods()
        self._period = 0
        self._outside = torch.zeros((), dtype=torch.int64, device=device)
        # One row more than the dataset has: what stands for no row is written there, and nobody reads it.
        self._sums = torch.zeros(rows + 1, len(_SUMS), device=device)
        self._latest = torch.tensor(_UNKNOWN, device=device).repeat(rows + 1, 1)
        places = [len(_VALUE) + _VALUE[_COUNTED[name]] if name in _COUNTED else _VALUE[name] for name in _SUMS]
        self._summed = torch.tensor(places, device=device)
        self._replaced = torch.tensor([_VALUE[name] for name in _REPLACED], device=device)
        self._now = torch.zeros(rows + 1, device=device)
        self._chosen_in = torch.zeros(rows + 1, MOST, dtype=torch.uint8, device=device)

    @torch.no_grad()
    def update(self, step: StepRows, moment: int) -> None:
        """Enter what one step said; ``moment`` is its epoch, or step, whatever the periods count."""
        self._turn_to(moment)
        ids = torch.where((step.ids >= 0) & (step.ids < self.rows), step.ids, self.rows)
        self._outside += ((step.ids < -1) | (step.ids >= self.rows)).sum()
        finite = step.values.isfinite()
        known = torch.where(finite, step.values, 0.0)
        table = torch.cat([known, finite.to(known.dtype)], dim=1)
        self._sums.index_add_(0, ids, table.index_select(1, self._summed))
        self._now.index_add_(0, ids, known[:, _CHOSEN])
        self._latest.index_copy_(0, ids, self._newest(ids, known, finite, moment))

    @property
    def outside(self) -> int:
        """Rows so far whose ids are not in the dataset; asking waits for the device."""
        return int(self._outside)

    def table(self, class_names: tuple[str, ...] = (), group_names: tuple[str, ...] = ()) -> RowTable:
        """All of it, on the host."""
        sums = dict(zip(_SUMS, _finite(self._sums[: self.rows].cpu()).numpy().T, strict=True))
        latest = dict(zip(_LATEST, self._latest[: self.rows].cpu().numpy().T, strict=True))
        self._flush()
        used = self._period + 1
        return RowTable(
            offered=sums["offered"].astype(np.int64),
            chosen=sums["chosen"].astype(np.int64),
            weight=_mean(sums["weight"], sums["chosen"]),
            loss=_mean(sums["loss"], sums["losses"]),
            last_loss=latest["loss"].astype(np.float32),
            score=_mean(sums["score"], sums["scores"]),
            margin=_mean(sums["margin"], sums["visits"]),
            confidence=_mean(sums["confidence"], sums["visits"]),
            agreement=_mean(sums["agreed"], sums["visits"]),
            visits=sums["visits"].astype(np.int64),
            forgettings=latest["forgettings"].astype(np.int64),
            learnt_at=_period_of(latest["learnt_at"], self.periods.width),
            label=latest["label"].astype(np.int64),
            suggestion=latest["suggestion"].astype(np.int64),
            group=latest["group"].astype(np.int64),
            chosen_in=self._chosen_in[: self.rows, :used].cpu().numpy(),
            periods=self.periods.names(used),
            class_names=class_names,
            group_names=group_names,
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        tensors = {name: getattr(self, f"_{name}")[: self.rows].cpu().clone() for name in _TENSORS}
        periods = {"period": self._period, "unit": self.periods.unit, "width": self.periods.width}
        tensors["sums"] = _finite(tensors["sums"])
        return {**tensors, **periods, "outside": self._outside.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` gave.

        Raises:
            ConfigurationError: It is damaged, or of a dataset of another length.
        """
        check_state("RowRecord", state, self.state_dict(), loose=_TENSORS)
        rows = state["sums"].shape[0]
        if rows != self.rows:
            raise ConfigurationError(
                f"RowRecord.rows must be the length of the dataset ({self.rows}), got a state of {rows} rows: "
                "the dataset has changed, or the checkpoint is of another one."
            )
        check_state("RowRecord", state, self.state_dict())
        check_range("RowRecord", "sums", state["sums"], -math.inf)
        check_range("RowRecord", "now", state["now"], 0.0)
        check_range("RowRecord", "period", state["period"], 0, MOST - 1)
        check_range("RowRecord", "width", state["width"], 1)
        if state["unit"] not in UNITS:
            raise broken_state("RowRecord", "unit", f"be one of {', '.join(UNITS)}", repr(state["unit"]))
        for name in _TENSORS:
            getattr(self, f"_{name}")[:rows].copy_(state[name])
        self._outside.copy_(state["outside"])
        self._period, self.periods = state["period"], Periods(state["unit"], state["width"])

    def _newest(self, ids: Tensor, known: Tensor, finite: Tensor, moment: int) -> Tensor:
        """The latest values of the rows ``ids`` after this step."""
        before = self._latest.index_select(0, ids)
        count = len(_REPLACED)
        new, value = finite.index_select(1, self._replaced), known.index_select(1, self._replaced)
        replaced = torch.where(new, value, before[:, :count])
        was_right, forgettings, learnt_at = before[:, count:].unbind(1)
        seen, right = finite[:, _MARGIN], known[:, _AGREED]
        forgotten = seen & (was_right == 1) & (right == 0)
        learnt = torch.where(right == 1, torch.where(learnt_at < 0, float(moment), learnt_at), -1.0)
        told = [torch.where(seen, right, was_right), forgettings + forgotten, torch.where(seen, learnt, learnt_at)]
        return torch.cat([replaced, torch.stack(told, dim=1)], dim=1)

    def _turn_to(self, moment: int) -> None:
        while self.periods.at(moment) >= MOST:
            self._flush()
            pairs = self._chosen_in.view(self.rows + 1, MOST // 2, 2).to(torch.int16).sum(dim=2).clamp(max=255)
            self._chosen_in.zero_()[:, : MOST // 2] = pairs.to(torch.uint8)
            self.periods.widen()
            self._period //= 2
        if self.periods.at(moment) != self._period:
            self._flush()
            self._period = self.periods.at(moment)

    def _flush(self) -> None:
        """Move the choices of the period that is now to its column."""
        column = self._chosen_in[:, self._period]
        column.copy_((column + self._now).clamp(max=255))
        self._now.zero_()


_TENSORS = ("sums", "latest", "now", "chosen_in")


def _finite(sums: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Losses of a model that has diverged may be finite and their sum not; it stands at the largest number then."""
    most = torch.finfo(sums.dtype).max
    return sums.clamp(-most, most)


def _mean(total: np.ndarray[Any, Any], count: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    mean = np.full(len(total), np.nan, np.float32)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _period_of(moments: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.where(moments < 0, -1, moments // width).astype(np.int64)
