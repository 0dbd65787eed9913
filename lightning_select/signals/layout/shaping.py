"""Which of the recorded reductions belong to the rows of the batch, concluded from three small experiments.

Once per fit, on the first active batch, the step runs without a trace on two rows, on the batch, and on the batch
with its rows reversed. Terms that belong to rows change their number with the number of rows and move with the rows;
a penalty on a weight matrix that happens to have as many rows as the batch does neither. The run on two rows keeps its
graph, so it also tells which reductions the loss depends on, with which coefficient, and whether some of the loss
passes through no reduction at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_select.signals.contract import contract_error
from lightning_select.signals.layout.findings import carried_over, reached
from lightning_select.signals.layout.order import Finding
from lightning_select.signals.layout.probe import Run, StepShape
from lightning_select.signals.layout.rows import Layout
from lightning_select.signals.recording.graph import dependencies, hides_a_reduction, reaching
from lightning_select.signals.recording.records import Record

__all__ = ["refuse_unreadable", "shape_of"]


def shape_of(few: Run, full: Run, findings: Sequence[Finding | None]) -> StepShape:
    """What the runs say of the step."""
    layouts = _keep_own_only_alone([f.layout if f is not None else None for f in findings], full.capture.records)
    single = full.rows == 1 and full.names != few.names
    of_rows = carried_over([layout is not None for layout in layouts], full, few)
    before = dependencies(few.capture.records)
    inner = {place for places, rows in zip(before, of_rows, strict=True) if rows for place in places}
    mixing = {place for place, places in enumerate(before) if places and not of_rows[place]}
    coefficients = [None if place in inner | mixing else c for place, c in enumerate(few.coefficients)]
    seen = [r.scalar for place, r in enumerate(few.capture.records) if r.connected and place not in mixing]
    unseen = hides_a_reduction(few.loss, seen)
    outer = carried_over([place not in inner for place in range(len(few.names))], few, full)
    used = reached(few, full)
    return StepShape(
        names=full.names,
        layouts=tuple(layout if own and not single else None for layout, own in zip(layouts, outer, strict=True)),
        connected=tuple(one and own for one, own in zip(used, outer, strict=True)),
        coefficients=tuple(None if c is None else float(c) for c in full.coefficients),
        left_out=0.0 if single else _left_out(few, coefficients, of_rows, unseen),
        unseen=unseen,
        single=single,
        unreduced=reaching(few.loss, few.capture.unreduced),
        reached=tuple(used),
        loose=_loose(few) if few.names == full.names else (False,) * len(full.names),
    )


def _loose(few: Run) -> tuple[bool, ...]:
    """Reductions that have a graph, and that the loss does not depend on."""
    found = zip(few.capture.records, few.coefficients, strict=True)
    return tuple([record.connected and coefficient is None for record, coefficient in found])


def refuse_unreadable(shape: StepShape, run: Run) -> None:
    """Nothing, where the step shows its rows.

    Raises:
        TrainingStepContractError: It does not.
    """
    if not any(shape.connected):
        raise contract_error(
            run.module,
            "a loss that no reduction of torch leads to (a fused kernel that returns a scalar, or a detached loss)",
        )
    if not shape.readable:
        sizes = [tuple(record.terms.values.shape) for record in run.capture.records][:5]
        raise contract_error(run.module, f"{run.rows} rows in the batch and loss terms of the shapes {sizes}")
    if shape.unseen and shape.left_out > 0.5:
        raise contract_error(
            run.module,
            f"{shape.left_out:.0%} of the loss from something that is no reduction of torch (a fused kernel)",
        )
    _refuse_parts(shape, run)


def _refuse_parts(shape: StepShape, run: Run) -> None:
    """Nothing, unless several reductions have rows of their own that may be different rows of the batch.

    Their terms would be added up place by place, and share a weight.
    """
    own = [record for record, layout in zip(run.capture.records, shape.layouts, strict=True) if layout and layout.own]
    if len(own) < 2:
        return
    size, cuts = own[0].terms.values.shape[0], [record.cut[0] for record in own if record.cut[1]]
    masks = [cut for cut in cuts if cut is not None]
    if len(masks) == len(own):
        apart = any(not torch.equal(mask.inside, masks[0].inside) for mask in masks)
    else:
        apart = size > 0 and run.rows % size == 0 and 1 < run.rows // size <= len(own)
    if apart:
        raise contract_error(
            run.module,
            f"{len(own)} losses of {size} rows each for {run.rows} rows in the batch, which are taken for losses of "
            "different rows of it: join the losses of all rows (torch.cat) before they are reduced, or add those of "
            "the same rows",
        )


def _keep_own_only_alone(layouts: list[Layout | None], records: Sequence[Record]) -> list[Layout | None]:
    """Rows of the loss's own making count only where no reduction has rows of the batch, and all agree on them."""
    if any(layout is not None and not layout.own for layout in layouts):
        return [None if layout is not None and layout.own else layout for layout in layouts]
    sizes = {r.terms.values.shape[0] for r, layout in zip(records, layouts, strict=True) if layout is not None}
    return layouts if len(sizes) <= 1 else [None] * len(layouts)


def _left_out(few: Run, coefficients: Sequence[Tensor | float | None], of_rows: Sequence[bool], unseen: bool) -> float:
    """Share of the loss that is not made of row terms, by value."""
    parts = [
        (float(coefficient * record.scalar.detach()), rows)
        for record, coefficient, rows in zip(few.capture.records, coefficients, of_rows, strict=True)
        if coefficient is not None
    ]
    rest = float(few.loss.detach()) - sum(part for part, _ in parts) if unseen else 0.0
    outside = abs(rest) + sum(abs(part) for part, rows in parts if not rows)
    total = outside + sum(abs(part) for part, rows in parts if rows)
    return outside / total if total else 0.0
