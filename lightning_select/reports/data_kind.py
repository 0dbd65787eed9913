"""What kind of data a run has seen: wrong labels, redundancy, imbalance.

References:
    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019,
    arXiv:1812.05159: rows that are learnt early and never forgotten can be left out with little loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightning_select.reports.row_table import RowTable
from lightning_select.reports.suspects import Suspects

__all__ = ["DataKind", "data_kind"]

_EARLY = 0.2
"""Share of the periods that counts as early; at least one period, and two where there are ten or more."""


@dataclass(frozen=True)
class DataKind:
    """Shares of the rows that were seen; ``None`` where the run does not tell.

    Attributes:
        rows: Rows that were seen.
        wrong_share: Share of rows that are likely mislabelled, an estimate from below.
        redundant_share: Share of rows that were right from one of the early periods on and never forgotten.
        early: Number of early periods.
        unlearnt_share: Share of rows that were wrong at their last visit.
        imbalance: Rows of the largest class for each one of the smallest; 1 is balanced.
    """

    rows: int
    wrong_share: float | None
    redundant_share: float | None
    early: int
    unlearnt_share: float | None
    imbalance: float | None


def data_kind(table: RowTable, suspects: Suspects | None) -> DataKind:
    """Read the kind of data off a run that trained on all rows alike.

    Args:
        table: What the run knows of each row.
        suspects: Its likely mislabelled rows.

    Redundancy takes three periods at least, and two visits of a row to tell that it was not forgotten.
    """
    seen = table.offered > 0
    visited = table.visits > 0
    periods = len(table.periods)
    early = max(1, math.floor(_EARLY * periods))
    redundant = (table.learnt_at >= 0) & (table.learnt_at < early) & (table.forgettings == 0) & (table.visits > 1)
    labels = table.label[seen & (table.label >= 0)]
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    known = bool(visited.any())
    often = known and float(np.median(table.visits[visited])) >= 2
    likely = None if suspects is None else suspects.likely
    return DataKind(
        rows=int(seen.sum()),
        wrong_share=likely / len(suspects.ids) if suspects is not None and likely is not None else None,
        redundant_share=float(redundant[visited].mean()) if often and periods >= 3 else None,
        early=early,
        unlearnt_share=float((table.learnt_at[visited] < 0).mean()) if known else None,
        imbalance=float(counts.max() / counts.min()) if len(counts) > 1 else None,
    )
