"""Which rows are likely mislabelled, by what the model said about them while it trained.

A row whose label is wrong is learnt late and against the others of its kind: the model keeps preferring another class,
so that the area under the margin (the mean margin over all visits) stays low. Where no margins are known the mean loss
ranks the rows instead, which finds outliers of any kind.

Know before use: how many of the first rows are called likely is an estimate, on the safe side. Of digits with 5, 10, 20
and 40 % of the labels changed it names 6, 11, 20 and 40 %, 88 to 98 % of them rightly; of CIFAR-10N with 18 and 41 %
wrong, where classes are hard to tell apart, 6 and 11 % (85 and 93 % rightly), and with 9 % wrong none. Where all labels
were right it named no row of digits, wine, CIFAR-10 and made blobs, and 5 % of iris (150 rows) after 20 epochs.
A model that knows every label by heart in the end tells wrong ones apart less well: train for fewer epochs. Rare kinds
of rows look like wrong labels. Rows that a selection left out were visited less often, so audit with ordinary training.

References:
    Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020,
    arXiv:2001.10528, equation 1.
    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019,
    arXiv:1812.05159: forgetting events, shown as evidence.
    Li et al., "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", ICLR 2020, arXiv:2002.07394,
    section 3.1: two normal distributions tell wrong labels from right ones, there by losses.

    Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021, arXiv:1911.00068,
    section 3.1: a class is taken for the true one where it is preferred as much as it usually is for its own rows.

Deviations:
    Pleiss et al. train twice, with rows of an extra class, to learn where low margins begin; nothing is trained for it
    here. Two normal distributions are fitted to the areas under the margin. If they explain them clearly better than
    one does, rows of the lower one are called likely mislabelled, as far as their margin is negative and the model
    preferred a class that it has learnt by at least half of the margin that this class usually has.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_select.reports.row_table import RowTable
from lightning_select.reports.suspects import Suspects

__all__ = ["likely_mislabelled", "low_group"]

_FEWEST, _VISITS, _LEARNT = 30, 3, 1 / 3
"""Rows, visits of a row (median) and share of rows with a positive margin that it takes to tell wrong labels."""

_EVIDENCE = 0.03
"""What two distributions must explain better than one, in the Bayesian information criterion per row."""

_CLASS_LEARNT, _AS_MUCH = 0.3, 0.5
"""Share of the rows of a class with a positive margin from which it is learnt; and how much of its margin is enough."""

_FITTED = 200_000
"""Rows that the two distributions are fitted to, at most; evenly spread over the ranking."""

_ROUNDS = 200
_TOLD = 1000

Numbers = NDArray[np.float64]


def likely_mislabelled(table: RowTable) -> Suspects | None:
    """Rank the rows, most suspicious first.

    Args:
        table: What a run knows of each row.

    Returns:
        Rows whose margin (or, where no row has one, whose loss) is known, by it; rows of one margin in their order, and
        rows that are called likely mislabelled before the others. The score is the share of these rows that are no more
        suspicious: 1 for the first. ``None`` where nothing is known of any row.
    """
    by_margin = bool(np.isfinite(table.margin).any())
    badness = -table.margin if by_margin else table.loss
    ids = np.flatnonzero(np.isfinite(badness))
    if not len(ids):
        return None
    ids = ids[np.argsort(-badness[ids], kind="stable")]
    reason = _untold(table, ids) if by_margin else "without margins no row is called mislabelled"
    likely = None
    if not reason:
        named = _named(table, ids)
        ids, likely = np.concatenate([ids[named], ids[~named]]), int(named.sum())
    scores = (1 - np.arange(len(ids)) / len(ids)).astype(np.float32)
    evidence = tuple(_evidence(table, int(row), by_margin) for row in ids[:_TOLD])
    return Suspects(ids, scores, evidence, likely, "; ".join(filter(None, (_basis(table, by_margin), reason))))


def low_group(margins: Numbers) -> int:
    """How many of these areas under the margin, in rising order, belong to a low group of their own."""
    fitted = margins[:: max(1, math.ceil(len(margins) / _FITTED))]
    spread = float(fitted.std()) if len(fitted) else 0.0
    negative = int((margins < 0).sum())
    if len(fitted) < _FEWEST or not negative or not spread > 0:
        return 0
    values = (fitted - fitted.mean()) / spread
    share, centre, width = _two_normals(values)
    explained = np.logaddexp.reduce(_log_density(values, share, centre, width), axis=1) + 0.5 * values**2
    if 2 * explained.mean() - 3 * math.log(len(values)) / len(values) < _EVIDENCE:  # three parameters more
        return 0
    likelihood = _log_density((margins[:negative] - fitted.mean()) / spread, share, centre, width)
    above = np.flatnonzero(likelihood[:, 0] <= likelihood[:, 1])
    return int(above[0]) if len(above) else negative


def _untold(table: RowTable, ids: NDArray[np.int64]) -> str:
    """Why this run cannot tell which labels are wrong; nothing where it can."""
    if len(ids) < _FEWEST:
        return f"fewer than {_FEWEST} rows do not tell which labels are wrong"
    if np.median(table.visits[ids]) < _VISITS:
        return f"rows that were visited fewer than {_VISITS} times do not tell which labels are wrong"
    if not (table.label[ids] >= 0).any():
        return "rows without a class have no wrong one"
    if (table.margin[ids] > 0).mean() < _LEARNT:
        return "the model has not learnt the classes, so it cannot tell which labels are wrong"
    return ""


def _named(table: RowTable, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the rows ``ids``, in rising order of their margin, are called likely mislabelled."""
    margins, labels, preferred = table.margin[ids], table.label[ids], table.suggestion[ids]
    usual = np.full(max(labels.max(), preferred.max()) + 1, np.inf)
    for number in np.unique(labels[labels >= 0]):
        of_class = margins[labels == number]
        if (of_class > 0).mean() >= _CLASS_LEARNT:
            usual[number] = np.median(of_class[of_class > 0])
    sure = (margins < 0) & (preferred >= 0) & (-margins >= _AS_MUCH * usual[preferred])
    return sure & (np.arange(len(ids)) < low_group(margins.astype(np.float64)))


def _two_normals(values: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Shares, centres and widths of two normal distributions by expectation maximisation, the lower one first."""
    share, centre, width = np.array([0.3, 0.7]), np.quantile(values, [0.1, 0.7]), np.array([0.5, 0.5])
    for _ in range(_ROUNDS):
        logs = _log_density(values, share, centre, width)
        logs -= logs.max(axis=1, keepdims=True)
        belongs = np.exp(logs)
        belongs /= belongs.sum(axis=1, keepdims=True)
        total = belongs.sum(axis=0) + 1e-9
        before = centre
        centre = (belongs * values[:, None]).sum(axis=0) / total
        width = np.sqrt((belongs * (values[:, None] - centre) ** 2).sum(axis=0) / total).clip(min=0.01)
        share = total / total.sum()
        if np.abs(centre - before).max() < 1e-5:
            break
    order = np.argsort(centre, kind="stable")
    return share[order], centre[order], width[order]


def _log_density(values: Numbers, share: Numbers, centre: Numbers, width: Numbers) -> Numbers:
    """Logarithm of share times density, up to a constant, shape (values, 2)."""
    return np.log(share) - np.log(width) - 0.5 * ((values[:, None] - centre) / width) ** 2


def _basis(table: RowTable, by_margin: bool) -> str:
    if not by_margin:
        return "mean losses, because no margins are known: rows of large loss, for whatever reason"
    visits = table.visits[table.visits > 0]
    return f"areas under the margin over {int(np.median(visits))} visits of a row (median)"


def _evidence(table: RowTable, row: int, by_margin: bool) -> str:
    if not by_margin:
        return f"mean loss {table.loss[row]:.3g}"
    visits = int(table.visits[row])
    told = [f"area under the margin {table.margin[row]:.2f}"]
    agreed, times = f"{100 * table.agreement[row]:.0f} %", "visit" if visits == 1 else "visits"
    told.append(f"label agreed with at {agreed} of {visits} {times}")
    if table.forgettings[row]:
        told.append(f"forgotten {'once' if table.forgettings[row] == 1 else f'{table.forgettings[row]} times'}")
    return ", ".join(told)
