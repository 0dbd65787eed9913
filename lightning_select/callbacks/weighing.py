"""One training step whose rows count with different weights, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_select.batch import shallow_copy
from lightning_select.compat import keeping_buffers, rank_zero_info
from lightning_select.errors import TrainingStepContractError
from lightning_select.signals.base import Signals
from lightning_select.signals.contract import NothingReturnedError, bent_error, contract_error, parse_output, rows_of
from lightning_select.signals.layout.compiled import whole_graphs_refused
from lightning_select.signals.layout.probe import Run, StepShape
from lightning_select.signals.reading import read_signals, row_losses
from lightning_select.signals.recording.capture import Capture
from lightning_select.signals.recording.records import put_gate
from lightning_select.signals.scoring import StepRunner
from lightning_select.signals.selection_step import asked
from lightning_select.signals.traceless.surroundings import Surroundings
from lightning_select.types import Float

__all__ = ["WeighedStep"]

Measure = Callable[[], Signals]
"""Gives the signals of the rows, the loss among them."""


class Weigh(Protocol):
    """From a function that measures the rows, and their number, to the weights (``None``: all alike)."""

    def __call__(self, measure: Measure, rows: int, *, own: bool = False) -> Float[Tensor, "rows"] | None:
        """Weigh them; ``own``: they are of the loss's own making, not those of the batch."""


Excuse = Callable[[TrainingStepContractError], None]
"""Is told why a step cannot be read row by row."""


class WeighedStep:
    """Runs a training step and weighs its rows before the backward pass starts.

    Args:
        module: The LightningModule.
        runner: Probes the step in the mode it trains in.
        surround: Makes what a ``selection_step`` finds around it; called once, where one is asked.
    """

    def __init__(self, module: nn.Module, runner: StepRunner, surround: Callable[[], Surroundings]) -> None:
        self._module = module
        self._runner = runner
        self._surroundings = cache(surround)
        self._ask_module = False
        self._uncompiled = False
        self._said = False

    def __call__(
        self,
        step: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        weigh: Weigh,
        needs: frozenset[str] = frozenset(),
        *,
        weighs: bool = True,
        lenient: bool = False,
        excuse: Excuse | None = None,
    ) -> Any:
        """What ``step`` returns; its backward pass will be weighted. ``needs`` names signals wanted beside the loss.

        Without ``weighs`` the rows are only measured, so that ``weigh`` gives no weights. With ``lenient`` a step that
        skips its very first batch is none to complain of. ``excuse`` is told why a step cannot be read, where nobody
        insists; the step then runs as if nobody had asked.

        Raises:
            TrainingStepContractError: The step cannot be read row by row, and there is no ``excuse``.
        """
        batch = args[0] if args else next(iter(kwargs.values()))
        batch_idx = args[1] if len(args) > 1 else kwargs.get("batch_idx")
        rows = rows_of(batch)
        # The step may take its batch apart (`batch.pop("labels")`), and may have to be run on it again.
        again = batch if type(batch) is Tensor else shallow_copy(batch)
        if not self._ask_module and not self._runner.is_ready(rows):
            try:
                readable = self._is_readable(batch, batch_idx, lenient)
            except TrainingStepContractError as error:
                if excuse is None:
                    raise
                excuse(error)
                readable = None
            if readable is None:
                return step(*args, **kwargs)
            self._ask_module = not readable
            self._uncompiled = readable and not self._runner.runs_compiled(again, batch_idx)
        if self._ask_module:
            return self._run_asked(step, args, kwargs, batch, rows, weigh, weighs=weighs, excuse=excuse)
        eager = torch.compiler.set_stance("force_eager") if self._uncompiled else nullcontext()
        watch = Capture(gated=True, weighs=weighs, want_logits=bool(needs))
        with eager, keeping_buffers(self._module), watch as capture:
            output = whole_graphs_refused(self._module, step, args, kwargs)
        if output is None:
            return None  # the module skips this batch, and Lightning says so
        try:
            return self._weigh_output(output, capture, batch, again, batch_idx, rows, weigh, needs)
        except TrainingStepContractError as error:
            if excuse is None:
                raise
            excuse(error)
            return output

    def _weigh_output(
        self,
        output: Any,
        capture: Capture,
        batch: Any,
        again: Any,
        batch_idx: int | None,
        rows: int,
        weigh: Weigh,
        needs: frozenset[str],
    ) -> Any:
        """What the step returned, with gates in its graph that weigh the rows. ``again`` is the batch as it was."""
        loss, losses = parse_output(self._module, output, rows)
        if losses is not None:
            return self._weigh_returned(output, loss, losses, weigh)
        run = Run.of(self._module, capture, loss, rows)
        shape = self._runner.known.of(run.names, run.reached)
        if shape is None or not shape.fits(run):
            shape = self._runner.probe(again, batch_idx, reached=run.reached)
            seen = "in a second run on the same"
            if shape.names != run.names:
                raise contract_error(self._module, f"other reductions in training than {seen} batch")
            if not shape.fits(run, examined=True):
                raise contract_error(self._module, f"loss terms of other sizes {seen} {rows} rows")
            self._runner.known.add(shape, run.reached)
        weights = weigh(lambda: _read(run, shape, needs), _count(run, shape), own=shape.own_rows)
        if rows > 1 and not shape.sure:
            self._say_unweighted()
            return output
        if weights is not None and shape.single:
            put_gate(loss).scale = weights.reshape(loss.shape)
        elif weights is not None:
            for record, layout in zip(capture.records, shape.layouts, strict=True):
                if layout is not None:
                    if record.bent:
                        raise bent_error(self._module, record.reduction.name)
                    record.weigh(weights, layout)
        return output

    def _say_unweighted(self) -> None:
        if not self._said:
            self._said = True
            rank_zero_info(
                f"{type(self._module).__name__}: the rows of this batch do not tell which losses are theirs, so it "
                "trains unweighted, as will others like it. Are its rows all the same?"
            )

    def _is_readable(self, batch: Any, batch_idx: int | None, lenient: bool) -> bool | None:
        """Probe the step; a step that cannot be read may still come with a ``selection_step`` that can.

        ``None``: it skips this batch, and that is none to complain of.
        """
        try:
            self._runner.probe(batch, batch_idx)
        except NothingReturnedError:
            if not lenient:
                raise
            return None
        except TrainingStepContractError:
            if not hasattr(self._module, "selection_step"):
                raise
            return False
        return True

    def _weigh_returned(self, output: Any, loss: Tensor, losses: Tensor, weigh: Weigh) -> Any:
        """The way out ``{"loss": ..., "sample_loss": ...}``."""
        weights = weigh(lambda: Signals(loss=losses.detach().float()), losses.shape[0])
        if weights is None:
            return output
        if not losses.requires_grad:
            raise contract_error(self._module, "a 'sample_loss' without a gradient (was it detached?)")
        (reached,) = torch.autograd.grad(loss, losses, retain_graph=True, allow_unused=True)
        if reached is not None:
            put_gate(losses).scale = weights
            return output
        return {**output, "loss": loss + _extra(losses, weights)}

    def _run_asked(
        self,
        step: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        batch: Any,
        rows: int,
        weigh: Weigh,
        *,
        weighs: bool,
        excuse: Excuse | None,
    ) -> Any:
        """The way out ``selection_step``: its losses join the graph, at the price of a second forward pass.

        That pass is made first and leaves no trace, so both steps find the same module, batch and random numbers.
        """
        try:
            signals = asked(self._module, self._surroundings(), batch, rows, differentiated=weighs)
            losses = self._asked_losses(signals, rows, weighs=weighs)
        except TrainingStepContractError as error:
            if excuse is None:
                raise
            excuse(error)
            return step(*args, **kwargs)
        output = step(*args, **kwargs)
        if output is None:
            return None
        weights = weigh(lambda: replace(signals, loss=losses.detach().float()), rows)
        if weights is None:
            return output
        weighted = parse_output(self._module, output, rows)[0] + _extra(losses, weights)
        return {**output, "loss": weighted} if isinstance(output, Mapping) else weighted

    def _asked_losses(self, signals: Signals, rows: int, *, weighs: bool) -> Tensor:
        losses = signals.loss
        if losses is None or losses.shape != (rows,) or (weighs and not losses.requires_grad):
            wanted = " with a gradient, to be weighted" if weighs else ""
            raise contract_error(self._module, f"from selection_step no loss per row{wanted}")
        return losses


def _count(run: Run, shape: StepShape) -> int:
    """Rows that the loss has: those of the batch, or its own."""
    if not shape.own_rows:
        return run.rows
    layouts = zip(run.capture.records, shape.layouts, strict=True)
    return next(record.terms.values.shape[0] for record, layout in layouts if layout is not None)


def _read(run: Run, shape: StepShape, needs: frozenset[str]) -> Signals:
    """What the rows say; those of the loss's own making have a loss only."""
    return read_signals(run, shape, needs) if needs and not shape.own_rows else Signals(loss=row_losses(run, shape))


def _extra(losses: Tensor, weights: Tensor) -> Tensor:
    """What the mean of the losses lacks to be the weighted mean."""
    return (losses * (weights - 1.0)).masked_fill(weights == 1.0, 0.0).mean()
