"""Which of the recorded reductions belong to the rows of the batch, found out by three small experiments.

Once per fit, on the first active batch, the step runs without a trace on two rows, on the batch, and on the batch
with its rows reversed. Terms that belong to rows change their number with the number of rows and move with the rows;
a penalty on a weight matrix that happens to have as many rows as the batch does neither. The run on two rows keeps its
graph, so it also tells which reductions the loss depends on, with which coefficient, and whether some of the loss
passes through no reduction at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from lightning_select.signals.capture import Capture
from lightning_select.signals.contract import contract_error
from lightning_select.signals.graph import hides_a_reduction, mixes
from lightning_select.signals.order import Finding, find_rows
from lightning_select.signals.records import Record
from lightning_select.signals.rows import Layout
from lightning_select.types import Int

__all__ = ["Run", "StepShape", "findings_of", "refuse_unreadable", "shape_of"]


@dataclass(eq=False)
class Run:
    """One run of a module's step under `Capture`.

    Attributes:
        module: Whose step it was.
        capture: What it recorded.
        loss: What it returned.
        rows: How many rows it saw.
        coefficients: ``d loss / d scalar`` of every record, asked for before anything the graph holds was put back.
    """

    module: nn.Module
    capture: Capture
    loss: Tensor
    rows: int
    coefficients: Sequence[Tensor | float | None]

    @classmethod
    def of(cls, module: nn.Module, capture: Capture, loss: Tensor, rows: int) -> Run:
        """The run that has just ended."""
        return cls(module, capture, loss, rows, capture.coefficients(loss))

    @property
    def names(self) -> tuple[str, ...]:
        """The reductions in order; steps that make the same ones have the same shape."""
        return tuple(record.reduction.name for record in self.capture.records)


@dataclass(frozen=True)
class StepShape:
    """What is known of a step that makes these reductions in this order.

    Attributes:
        names: The reductions.
        layouts: Where the rows are in the terms of each; ``None`` where the terms do not belong to rows.
        connected: Does a gradient of the loss pass through it?
        coefficients: ``d loss / d scalar`` on the first batch, for steps whose graph cannot be asked later.
        left_out: Share of the loss that is not made of row terms, and stays unweighted.
        unseen: Does some of the loss reach the parameters through no recorded reduction?
        single: The batch is one row, for which the step makes other reductions than for more (the sum over the rows of
            one row is no reduction to tell from others). Its loss is the loss.
    """

    names: tuple[str, ...]
    layouts: tuple[Layout | None, ...]
    connected: tuple[bool, ...]
    coefficients: tuple[float | None, ...]
    left_out: float
    unseen: bool
    single: bool = False

    @property
    def others(self) -> str:
        """What the loss depends on besides the terms of rows, in words."""
        known = [
            name
            for name, layout, reached in zip(self.names, self.layouts, self.connected, strict=True)
            if layout is None and reached
        ]
        return ", ".join([*dict.fromkeys(known), *(["what passes through no reduction"] if self.unseen else [])])

    @property
    def own_rows(self) -> bool:
        """Are the rows of the loss's own making, not those of the batch?"""
        return any(layout.own for layout in self.layouts if layout is not None)

    @property
    def plain(self) -> bool:
        """Is the loss one reduction and nothing else, so that its coefficient is one for ever?"""
        return sum(self.connected) == 1 and 1.0 in self.coefficients

    @property
    def readable(self) -> bool:
        """Is there a reduction of row terms that the loss depends on?"""
        return self.single or any(layout is not None for layout in self.layouts)

    def fits(self, run: Run) -> bool:
        """Are the rows of this run where they were when the shape was found out?"""
        if self.single and run.rows > 1:
            return False
        for record, layout in zip(run.capture.records, self.layouts, strict=True):
            if layout is None or layout.own:
                continue
            mask, surely = record.cut
            sizes = record.terms.values.shape
            if layout.masked is None and surely and run.rows > 1:
                return False  # a mask that was not there before
            if layout.masked and mask is None:
                return False
            shape = mask.shape if layout.masked and mask is not None else sizes
            if layout.axis >= len(shape) or not shape[layout.axis] or shape[layout.axis] % run.rows:
                return False
        return True


def findings_of(few: Run, full: Run, moved: Run | None, order: Int[Tensor, "rows"]) -> list[Finding | None]:
    """Where the rows are in the terms of each reduction that the loss depends on.

    Args:
        few: The step on fewer rows (or more), with its graph.
        full: The step on the batch.
        moved: The step on the batch with its rows in another order, where it could be had.
        order: That order.
    """
    comparable = moved is not None and moved.names == full.names
    others = moved.capture.records if moved is not None and comparable else [None] * len(full.capture.records)
    same = len(few.capture.records) == len(full.capture.records)
    small = few.capture.records if same else [None] * len(full.capture.records)
    found: list[Finding | None] = []
    for record, other, little, reached in zip(full.capture.records, others, small, _reached(few, full), strict=True):
        found.append(_finding(record, other, little, (full.rows, few.rows), order) if reached else None)
    return found


def shape_of(few: Run, full: Run, findings: Sequence[Finding | None]) -> StepShape:
    """What the runs say of the step."""
    layouts = _keep_own_only_alone([f.layout if f is not None else None for f in findings], full.capture.records)
    single = full.rows == 1 and full.names != few.names
    mixing = mixes(few.capture.records)
    coefficients = [None if mixed else c for mixed, c in zip(mixing, few.coefficients, strict=True)]
    numbers = [None if c is None else float(c) for c in full.coefficients]
    seen = [r.scalar for r, mixed in zip(few.capture.records, mixing, strict=True) if r.connected and not mixed]
    unseen = hides_a_reduction(few.loss, seen)
    return StepShape(
        names=full.names,
        layouts=(None,) * len(full.names) if single else tuple(layouts),
        connected=tuple(_reached(few, full)),
        coefficients=tuple(numbers),
        left_out=0.0 if single else _left_out(few, coefficients, layouts, unseen),
        unseen=unseen,
        single=single,
    )


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


def _reached(few: Run, full: Run) -> list[bool]:
    """Which reductions of ``full`` does the loss depend on?"""
    if len(few.capture.records) == len(full.capture.records):
        return [coefficient is not None for coefficient in few.coefficients]
    # The number of reductions depends on the rows; only what they are called can be compared.
    names = {name for name, coefficient in zip(few.names, few.coefficients, strict=True) if coefficient is not None}
    return [name in names for name in full.names]


def _finding(
    full: Record, moved: Record | None, few: Record | None, sizes: tuple[int, int], order: Int[Tensor, "rows"]
) -> Finding:
    """Where the rows are in the terms, as they are or as they were before a mask left some of them out."""
    rows, few_rows = sizes

    def find(values: Callable[[Record], Tensor | None]) -> Finding:
        whole, little, other = (None if record is None else values(record) for record in (full, few, moved))
        if whole is None:
            return Finding(None)
        fewer = None if little is None else (little, few_rows)
        return find_rows(whole, fewer, None if other is None else (other, order), rows)

    plain, (mask, surely) = find(lambda record: record.terms.values), full.cut
    if mask is None or not surely:
        return plain
    if mask.shape == (rows,):  # the step leaves out whole rows, or might in another batch
        if not mask.cuts_nothing or plain.layout is None:
            return Finding(Layout(0, own=True))
        return replace(plain, layout=replace(plain.layout, masked=False))
    behind = find(lambda record: None if record.cut[0] is None else record.cut[0].restore(record.terms.values))
    if plain.layout is not None and plain.sign == "moved" and behind.sign != "moved":
        return replace(plain, layout=replace(plain.layout, masked=False))
    if behind.layout is None or behind.layout.own:
        return replace(behind, layout=None)
    return replace(behind, layout=replace(behind.layout, masked=True))


def _keep_own_only_alone(layouts: list[Layout | None], records: Sequence[Record]) -> list[Layout | None]:
    """Rows of the loss's own making count only where no reduction has rows of the batch, and all agree on them."""
    if any(layout is not None and not layout.own for layout in layouts):
        return [None if layout is not None and layout.own else layout for layout in layouts]
    sizes = {r.terms.values.shape[0] for r, layout in zip(records, layouts, strict=True) if layout is not None}
    return layouts if len(sizes) <= 1 else [None] * len(layouts)


def _left_out(
    few: Run, coefficients: Sequence[Tensor | float | None], layouts: Sequence[Layout | None], unseen: bool
) -> float:
    """Share of the loss that is not made of row terms, by value."""
    parts = [
        (float(coefficient * record.scalar.detach()), layout is not None)
        for record, coefficient, layout in zip(few.capture.records, coefficients, layouts, strict=False)
        if coefficient is not None
    ]
    rest = float(few.loss.detach()) - sum(part for part, _ in parts) if unseen else 0.0
    outside = abs(rest) + sum(abs(part) for part, of_rows in parts if not of_rows)
    total = outside + sum(abs(part) for part, of_rows in parts if of_rows)
    return outside / total if total else 0.0
