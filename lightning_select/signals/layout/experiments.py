"""The runs of a step that show where its rows are: on few rows, on the batch, and on its rows in other orders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_select.batch import take_rows, tensors_of
from lightning_select.errors import BatchFormatError
from lightning_select.signals.contract import NotRestoredError, contract_error
from lightning_select.signals.equality import same_values
from lightning_select.signals.layout.findings import findings_of
from lightning_select.signals.layout.jitter import jittered
from lightning_select.signals.layout.noise import RowNoise
from lightning_select.signals.layout.order import Finding
from lightning_select.signals.layout.probe import Run, StepShape
from lightning_select.signals.layout.shaping import refuse_unreadable, shape_of
from lightning_select.signals.memory import pass_on_out_of_memory
from lightning_select.types import Batch, Int

__all__ = ["device_of", "examine"]

RunStep = Callable[..., "tuple[Run, Tensor | None]"]

_REPEATS = 2
_DOUBTS = 5
"""How often a step that draws permutations is asked again, and one that seems to shuffle its rows."""

_FEW = 6
"""Of so many rows, many ways to shuffle them look like none in one other order."""

_INNOCENT = frozenset({"nearly", "changed"})
"""Signs that terms are not the very terms of single rows in another order."""


def examine(module: nn.Module, run: RunStep, batch: Batch, rows: int, *, whole: bool = False) -> StepShape:
    """What is known of the step after it ran a few times.

    Args:
        module: Whose step it is.
        run: Runs the step on a batch without a trace; takes the arguments of the runs of `StepRunner`.
        batch: The batch.
        rows: Number of its rows.
        whole: Ask the graph of the whole batch, at the price of its memory, and not that of two of its rows.

    Raises:
        TrainingStepContractError: The step shows no loss per row.
    """
    order = torch.arange(rows, device=device_of(batch))
    few = (None if whole else _run_few(run, batch, order)) or run(batch, grad=True)[0]
    look = _look(run, batch, few, order)
    full = look.full
    if look.losses is not None:
        return look.shape  # the rows are where the step says
    if any(finding is not None and finding.sign == "alike" for finding in look.findings):
        with jittered(module):
            look = _look(run, batch, few, order)
        look = replace(look, shape=shape_of(few, full, look.findings))
    if look.reorders:
        raise contract_error(
            module,
            "loss terms in an order that is not that of the rows: the step reorders its rows (it shuffles, sorts or "
            "filters them)",
        )
    if not look.shape.readable and any(finding is not None and finding.sign == "pairs" for finding in look.findings):
        raise contract_error(
            module,
            f"a loss term for every pair of the {rows} rows, which is of both of them: take the sum or the mean over "
            "the pairs of each row first, as in losses.sum(dim=1).mean()",
        )
    refuse_unreadable(look.shape, full)
    doubtful = [finding for finding in look.findings if finding is not None and finding.ambiguous]
    unsure = doubtful and (any(f.sign == "alike" for f in doubtful) or _reordered(batch, order.flip(0)) is None)
    return replace(look.shape, sure=not unsure, whole=few.rows == rows)


@dataclass(frozen=True)
class _Look:
    """What the step does when the rows of the batch change places.

    Attributes:
        full: The step on the batch.
        losses: The row losses that it returned, if it did.
        findings: Where the rows are in each reduction.
        shape: What that says of the step.
        reorders: Does it seem to reorder its rows?
    """

    full: Run
    losses: Tensor | None
    findings: list[Finding | None]
    shape: StepShape
    reorders: bool


def _look(run: RunStep, batch: Batch, few: Run, order: Int[Tensor, "rows"]) -> _Look:
    rows = order.shape[0]
    noise = RowNoise(rows)
    full, losses = run(batch, connected=tuple(one is not None for one in few.coefficients), noise=noise)
    moved = _run_moved(run, batch, order.flip(0))
    findings = findings_of(few, full, moved, order.flip(0))
    shape = shape_of(few, full, findings)
    reorders = losses is None and (
        _shuffles(run, batch, rows, few, findings, drawn=noise.shuffles)
        or (not shape.readable and _sorts(run, batch, order, full, findings))
    )
    return _Look(full, losses, findings, shape, reorders)


def _run_few(run: RunStep, batch: Batch, order: Int[Tensor, "rows"]) -> Run | None:
    """The step on two rows of many or on each of few rows twice; ``None`` where the module insists on its batch."""
    rows = order.shape[0]
    try:
        with torch.no_grad():
            few = take_rows(batch, order[:2] if rows > 2 else order.repeat(2))
        return run(few, grad=True, noise=RowNoise(rows))[0]
    except (BatchFormatError, NotRestoredError):
        raise
    except Exception:  # whatever a module raises for a size it does not expect; the full batch is asked instead
        return None


def _run_moved(run: RunStep, batch: Batch, order: Int[Tensor, "rows"], **how: Any) -> Run | None:
    """The step on the rows in another order; ``None`` where the module insists on theirs."""
    moved = _reordered(batch, order)
    if moved is None:
        return None
    try:
        return run(moved, noise=RowNoise(order.shape[0], order), **how)[0]
    except NotRestoredError:
        raise
    except Exception as error:  # packing, for one, asks for rows that are sorted by their lengths
        pass_on_out_of_memory(error)
        return None


def _reordered(batch: Batch, order: Int[Tensor, "rows"]) -> Batch | None:
    """The rows in another order; ``None`` where that is the same: they are alike, or the same from both ends."""
    with torch.no_grad():
        moved = take_rows(batch, order)
    pairs = zip(tensors_of(batch), tensors_of(moved), strict=True)
    return None if all(same_values(one, other) for one, other in pairs) else moved


def _shuffles(run: RunStep, batch: Batch, rows: int, few: Run, findings: list[Finding | None], *, drawn: bool) -> bool:
    """Are the terms of some reduction those of the rows, but in an order that the step drew or looked up?

    Rows that are mixed with others (mixup) look shuffled where by chance the other weighs all, and a permutation may be
    one that reversing the rows does not show. So the answer needs other draws, and other orders of the rows.

    Args:
        run: Runs the step.
        batch: The batch.
        rows: Number of its rows.
        few: The step on few rows.
        findings: What its rows in reverse have shown.
        drawn: Was a permutation drawn?
    """
    signs = [{None if finding is None else finding.sign} for finding in findings]
    for attempt in range(1, _DOUBTS + 1):
        suspected = any("shuffled" in seen and not seen & _INNOCENT for seen in signs)
        if not suspected and (not drawn or attempt > (_REPEATS if rows > _FEW else _DOUBTS)):
            return False
        for seen, finding in zip(signs, _again(run, batch, few, rows, attempt), strict=False):
            seen.add(None if finding is None else finding.sign)
    return any("shuffled" in seen and not seen & _INNOCENT for seen in signs)


def _again(run: RunStep, batch: Batch, few: Run, rows: int, attempt: int) -> list[Finding | None]:
    """What the rows show with other draws and in another order."""
    full = run(batch, noise=RowNoise(rows), draws=attempt)[0]
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(attempt)).to(device_of(batch))
    moved = _run_moved(run, batch, order, draws=attempt)
    return findings_of(few, full, moved, order)


def _sorts(run: RunStep, batch: Batch, order: Int[Tensor, "rows"], full: Run, findings: list[Finding | None]) -> bool:
    """Are there terms that stay where they are when the rows change places, but are others when the rows are others?"""
    still = [place for place, finding in enumerate(findings) if finding is not None and finding.sign == "still"]
    altered = _run_moved(run, batch, order - order % 2) if still else None
    if altered is None or altered.names != full.names:
        return False
    pairs = [(run.capture.records[place].terms.values for run in (full, altered)) for place in still]
    return any(a.shape != b.shape or not torch.allclose(a, b, equal_nan=True) for a, b in pairs)


def device_of(batch: Batch) -> torch.device:
    """Where the batch is."""
    return next((tensor.device for tensor in tensors_of(batch)), torch.device("cpu"))
