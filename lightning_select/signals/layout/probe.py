"""One run of a step under `Capture`, and what is known of steps that make the same reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import or_

from torch import Tensor, nn

from lightning_select.signals.layout.rows import Layout
from lightning_select.signals.recording.capture import Capture
from lightning_select.signals.recording.records import Record

__all__ = ["Run", "StepShape"]


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
        """The reductions in order."""
        return tuple(record.reduction.name for record in self.capture.records)

    @property
    def reached(self) -> tuple[bool, ...] | None:
        """Which of them the loss depends on; ``None`` where no graph tells."""
        found = tuple([coefficient is not None for coefficient in self.coefficients])
        return found if any(found) else None


@dataclass(frozen=True)
class StepShape:
    """What is known of a step that makes these reductions in this order.

    Attributes:
        names: The reductions.
        layouts: Where the rows are in the terms of each; ``None`` where the terms do not belong to rows.
        connected: Does a gradient of the loss pass through it, and not only on its way to the terms of another?
        coefficients: ``d loss / d scalar`` on the first batch, for steps whose graph cannot be asked later.
        left_out: Share of the loss that is not made of row terms, and stays unweighted.
        unseen: Does some of the loss reach the parameters through no recorded reduction?
        sure: Do the rows of this batch show where rows are? If they are all alike, or there is only one, the next batch
            must be asked.
        single: The batch is one row, for which the step makes other reductions than for more (the sum over the rows of
            one row is no reduction to tell from others). Its loss is the loss.
        unreduced: Does a gradient of the loss pass through it, of each cross entropy that was not reduced?
        reached: Does the loss depend on it at all, be it on its way to the terms of another?
        loose: Could the loss depend on it, but does not? It may join later.
        trained: Which weights were trained.
        whole: Was the graph that shows all this one of the whole batch, and not one of two rows?
    """

    names: tuple[str, ...]
    layouts: tuple[Layout | None, ...]
    connected: tuple[bool, ...]
    coefficients: tuple[float | None, ...]
    left_out: float
    unseen: bool
    sure: bool = True
    single: bool = False
    unreduced: tuple[bool, ...] = ()
    reached: tuple[bool, ...] = ()
    loose: tuple[bool, ...] = ()
    trained: tuple[bool, ...] = ()
    whole: bool = False

    @property
    def asked(self) -> tuple[bool, ...]:
        """Which reductions a run without a graph of the model must ask about."""
        return tuple(map(or_, self.connected, self.loose)) if any(self.loose) else self.connected

    def reached_in(self, run: Run) -> tuple[bool, ...] | None:
        """Which reductions the loss of a run depends on that asked about some; of the others, those that it did.

        The run is one that makes these reductions.
        """
        found = run.reached
        if found is None:
            return None
        told = zip(found, self.asked, self.reached, strict=True)
        return tuple([seen if asked else before for seen, asked, before in told])

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

    def fits(self, run: Run, *, examined: bool = False) -> bool:
        """Are the rows of this run where they were when the shape was found out?

        Args:
            run: The run.
            examined: Was it this very batch that the shape was found out on?
        """
        if run.rows > 1 and (self.single or not (self.sure or examined)):
            return False
        records = list(zip(run.capture.records, self.layouts, strict=True))
        if len({record.terms.values.shape[:1] for record, layout in records if layout and layout.own}) > 1:
            return False  # their terms are added up, place by place
        return all(
            layout is None or layout.own or self.fits_one(record, layout, run.rows) for record, layout in records
        )

    @staticmethod
    def fits_one(record: Record, layout: Layout, rows: int) -> bool:
        """Can the terms of this reduction hold so many rows where ``layout`` says that they are?"""
        mask, surely = record.cut
        if layout.masked is None and surely and rows > 1:
            return False  # a mask that was not there before
        if layout.masked and mask is None:
            return False
        shape = mask.shape if layout.masked and mask is not None else record.terms.values.shape
        if layout.axis >= len(shape) or not shape[layout.axis] or shape[layout.axis] % rows:
            return False
        # Where there was one entry per row, it is not known which index is the row among more.
        return layout.inner is not None or shape[layout.axis] <= rows
