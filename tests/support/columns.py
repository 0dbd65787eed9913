"""Who is to work in every setting: our callbacks, and every sampler that there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_select import BatchSelection, LossReweighting, SelectionReport
from lightning_select.preferences.peer_select import PeerSelect
from lightning_select.samplers.base import OnlineSampler
from lightning_select.scores.loss import Loss
from lightning_select.selectors.importance import Importance
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.methods import camel, class_of
from tests.preferences.pairs_of import review
from tests.test_every_sampler import NAMES, data_of

KEEP = 4


@dataclass(frozen=True, eq=False)
class Column:
    """One of ours.

    Args:
        name: What it is called on the page.
        kind: What it does, which says how to see that it did: ``selection``, ``weighted selection``, ``reweighting``,
            ``report``, ``peer review``, ``sampler``.
        callbacks: Makes its callbacks, which write into a folder.
        sampler: Makes its sampler for so many rows.
        module: Makes its module, where it is one.
    """

    name: str
    kind: str
    callbacks: Callable[[Path], list[Any]] = lambda folder: []
    sampler: Callable[[int], OnlineSampler] | None = None
    module: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Noted(PeerSelect):
    """Says how many pairs were offered and how many were kept."""

    def __call__(self, margins: Tensor, epoch: int) -> Tensor:
        kept = super().__call__(margins, epoch)
        _note(len(margins), len(kept))
        return kept


@torch.compiler.disable
def _note(offered: int, kept: int) -> None:
    """Not for a compiler to see, which would compile again for each length of the list."""
    NOTED.append((offered, kept))


NOTED: list[tuple[int, int]] = []
"""By all models of this process; a cell empties it first."""


def _sampler(name: str) -> Column:
    def make(rows: int) -> OnlineSampler:
        half = {"fraction": 0.5} if name == "repeated_random" else {}  # by default an epoch is a tenth of the rows
        return class_of("sampler", name)(rows, **data_of(name, rows), **half)

    return Column(camel(name), "sampler", sampler=make)


CALLBACKS = (
    Column("BatchSelection", "selection", lambda folder: [BatchSelection(Loss(), TopK(), keep=KEEP)]),
    Column(
        "BatchSelection, weights",
        "weighted selection",
        lambda folder: [BatchSelection(Loss(), Importance(threshold=0.0), keep=KEEP)],
    ),
    Column("LossReweighting", "reweighting", lambda folder: [LossReweighting(DynamicLoss(temperature=0.2))]),
    Column("SelectionReport", "report", lambda folder: [SelectionReport(folder=folder / "report")]),
)
PEER_REVIEW = Column("PeerReview", "peer review", module=lambda: review(select=Noted(0.4, warm_up=0)))
SAMPLERS = tuple(map(_sampler, NAMES))
COLUMNS = (*CALLBACKS, PEER_REVIEW, *SAMPLERS)
BY_NAME = {column.name: column for column in COLUMNS}
