"""A sampler that learns, as simple as can be: rows in proportion to the loss that they had last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.drawn import Drawn


class ByLastLoss(OnlineSampler):
    needs = frozenset({"loss"})  # type: ignore[assignment]
    weighted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.last = torch.ones(self.rows)
        self.heard: list[tuple[list[int], list[float]]] = []

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        ids = torch.multinomial(self.last, count, replacement=True, generator=generator)
        return Drawn(ids, 1 / self.last[ids].clamp(min=0.5) if self.weighted else None)

    def learn(self, ids: Tensor, signals: Mapping[str, Tensor]) -> None:
        self.heard.append((ids.tolist(), signals["loss"].tolist()))
        for row, loss in zip(ids.tolist(), signals["loss"].tolist(), strict=True):
            if row >= 0:
                self.last[row] = loss

    def tensors(self) -> dict[str, Any]:
        return {"last": self.last.clone()}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        self.last = state["last"].clone()


class Weighted(ByLastLoss):
    weighted = True


class Plain(OnlineSampler):
    """Learns nothing: rows at random."""

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        return Drawn(torch.randint(self.rows, (count,), generator=generator))
