"""Snapshots of the scores and losses of single batches, evenly spaced over a run of any length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lightning_select.reports.timeline import QUANTILES, Timeline
from lightning_select.states import broken_state, check_range, check_state
from lightning_select.types import Float, Tensor

__all__ = ["Snapshots"]

_MOST = 256
_COLUMNS = 2 * len(QUANTILES)


class Snapshots:
    """Keeps every ``stride``-th batch; when there are too many, every second one goes and the stride doubles.

    Quantiles stay on the device until `timeline` asks for them.
    """

    def __init__(self) -> None:
        self._stride = 1
        self._seen = 0
        self._taken: list[tuple[int, int, Tensor, Tensor]] = []
        self._levels = torch.tensor(QUANTILES)

    @property
    def due(self) -> bool:
        """Is the batch now in training one to be kept?"""
        return self._seen % self._stride == 0

    @torch.no_grad()
    def add(
        self, step: int, epoch: int, scores: Float[Tensor, "offered"], losses: Float[Tensor, "trained"], kept: Tensor
    ) -> None:
        """Keep a batch that is `due`.

        Args:
            step: Optimiser steps before it.
            epoch: Its epoch.
            scores: Scores of its rows; what is not finite is left out.
            losses: Losses of the rows that were trained on; likewise.
            kept: Share of its rows that were trained on, shape ().
        """
        if self._levels.device != losses.device:
            self._levels = self._levels.to(losses.device)
            # What a checkpoint gave back is still on the host.
            self._taken = [
                (before, its_epoch, values.to(losses.device), share.to(losses.device))
                for before, its_epoch, values, share in self._taken
            ]
        quantiles = [_quantiles(values, self._levels) for values in (scores, losses)]
        self._taken.append((step, epoch, torch.cat(quantiles), kept))
        if len(self._taken) >= _MOST:
            self._taken = self._taken[::2]
            self._stride *= 2

    def count(self) -> None:
        """Another batch is over."""
        self._seen += 1

    def timeline(self) -> Timeline:
        """What was kept, on the host."""
        if not self._taken:
            return Timeline.empty()
        steps, epochs, values, kept = zip(*self._taken, strict=True)
        table = torch.stack(values).cpu().numpy()
        return Timeline(
            step=np.asarray(steps, np.int64),
            epoch=np.asarray(epochs, np.int64),
            score=table[:, : len(QUANTILES)],
            loss=table[:, len(QUANTILES) :],
            kept=torch.stack(kept).float().cpu().numpy(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        line = self.timeline()
        return {
            "stride": self._stride,
            "seen": self._seen,
            "steps": torch.from_numpy(np.stack([line.step, line.epoch])),
            "values": torch.from_numpy(np.concatenate([line.score, line.loss, line.kept[:, None]], axis=1)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` gave.

        Raises:
            ConfigurationError: It is damaged.
        """
        check_state("Snapshots", state, Snapshots().state_dict(), loose=("steps", "values"))
        check_range("Snapshots", "stride", state["stride"], 1)
        check_range("Snapshots", "seen", state["seen"], 0)
        if state["steps"].shape != (2, len(state["values"])) or state["values"].shape[1:] != (_COLUMNS + 1,):
            raise broken_state("Snapshots", "values", "be a line per step", f"shape {tuple(state['values'].shape)}")
        self._stride, self._seen = state["stride"], state["seen"]
        places = zip(state["steps"].T.tolist(), state["values"].float(), strict=True)
        self._taken = [(step, epoch, values[:_COLUMNS], values[_COLUMNS]) for (step, epoch), values in places]


def _quantiles(values: Float[Tensor, "rows"], levels: Float[Tensor, "quantiles"]) -> Float[Tensor, "quantiles"]:
    """NaN where no value is finite."""
    return torch.nanquantile(torch.where(values.isfinite(), values, torch.nan).float(), levels)
