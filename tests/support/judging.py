"""Did a method act? What to look at differs by what it does."""

from __future__ import annotations

import csv
from typing import Any

import torch

from lightning_select import distributed
from tests.support.columns import KEEP
from tests.support.modules import SIZE
from tests.support.running import Seen

__all__ = ["faults"]


def faults(seen: Seen, plain: Any) -> list[str]:
    """What keeps a cell from working, where ``plain`` is the same without us; nothing where it works."""
    if seen.error is not None:
        return [f"{type(seen.error).__name__}: {seen.error}"]
    found = [] if seen.rows else ["nothing was trained on"]
    found += [f"{name} is not finite" for name, value in seen.weights.items() if not value.isfinite().all()]
    found += ["nothing was learnt"] if seen.untouched else []
    found += [f"left behind: {name}" for name in seen.ours]
    if not seen.cell.pairs:
        for owner, names in seen.left.items():
            more = names - plain.left.get(owner, set())
            found += [f"{owner} has more attributes: {sorted(more)}"] if more else []
    return found + _CHECKS[seen.cell.column.kind](seen, plain)


def _selection(seen: Seen, plain: Any) -> list[str]:
    sizes = {len(rows) for rows in seen.rows}
    loaders = max(1, round(max(map(len, plain.rows)) / 8))
    return [] if sizes <= {KEEP, KEEP * loaders} else [f"batches of {sorted(sizes)} rows reached the step"]


def _weighted_selection(seen: Seen, plain: Any) -> list[str]:
    found = _selection(seen, plain)
    return found + ([] if seen.weighted else ["no weights were applied"])


def _reweighting(seen: Seen, plain: Any) -> list[str]:
    found = [] if seen.weighted == len(seen.rows) else [f"weights in {seen.weighted} of {len(seen.rows)} steps"]
    found += [] if seen.rows == plain.rows else ["other rows were trained on than without us"]
    return found + (["the weights did not reach the gradients"] if _same(seen, plain) else [])


def _report(seen: Seen, plain: Any) -> list[str]:
    folder = seen.cell.folder / "report"
    found = [] if _same(seen, plain) or _close(seen, plain) else ["training differs from that without us"]
    if distributed.rank():
        return found
    if not (folder / "report.html").exists():
        return [*found, "no report was written"]
    with (folder / "rows.csv").open() as file:
        counted = sum(int(float(row["chosen"] or 0)) for row in csv.DictReader(file))
    trained = (sum(map(len, seen.rows)) + seen.cell.steps_before * SIZE) * seen.cell.world
    return found + ([] if counted == trained else [f"the report counts {counted} rows of {trained}"])


def _peer_review(seen: Seen, plain: Any) -> list[str]:
    offered, kept = (sum(numbers) for numbers in zip(*seen.pairs, strict=True)) if seen.pairs else (0, 0)
    return [] if 0 < kept < offered else [f"{kept} of {offered} pairs were kept"]


def _sampler(seen: Seen, plain: Any) -> list[str]:
    sampler: Any = seen.cell.sampler
    fresh = seen.cell.column.sampler(sampler.rows)
    found = ["the rows come as without us"] if seen.rows == plain.rows else []
    due = len(seen.rows) + seen.cell.steps_before if sampler.needs else 0
    if sampler.updates != due:
        found.append(f"it was fed {sampler.updates} of {due} batches")
    if sampler.needs:
        found += _not_learnt(sampler.tensors(), fresh.tensors(), {row for rows in seen.rows for row in rows})
    return found + (["it still waits for a Trainer"] if sampler.fed else [])


_LEARNT = ("history", "trials", "values")
"""Where samplers keep what they were told, apart from what they draw by."""


def _not_learnt(told: Any, fresh: Any, rows: set[int]) -> list[str]:
    names = [name for name in _LEARNT if name in told]
    if not names:
        return [f"nobody knows where it keeps what it learns: {sorted(told)}"]
    found = ["it learnt nothing"] if all(_alike(told[name], fresh[name]) for name in names) else []
    if "history" in names and not rows <= set(told["history"]["count"].nonzero().flatten().tolist()):
        found.append("rows were trained on that its history has not seen")
    return found


_CHECKS = {
    "selection": _selection,
    "weighted selection": _weighted_selection,
    "reweighting": _reweighting,
    "report": _report,
    "peer review": _peer_review,
    "sampler": _sampler,
}


def _same(seen: Seen, plain: Any) -> bool:
    return all(torch.equal(value, plain.weights[name]) for name, value in seen.weights.items())


def _close(seen: Seen, plain: Any) -> bool:
    """Where a compiler rounds otherwise than torch, and what we watch is not compiled."""
    inexact = not getattr(seen.cell.feature, "exact", True)
    return inexact and all(torch.allclose(value, plain.weights[name]) for name, value in seen.weights.items())


def _alike(one: Any, other: Any) -> bool:
    """Do two nested states hold the same?"""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return bool(one == other)
