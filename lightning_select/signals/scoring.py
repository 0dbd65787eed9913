"""Run a module's own training step on a batch without leaving a trace, and read what it says about each row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from lightning_select.batch import shallow_copy
from lightning_select.compat import next_batch_index
from lightning_select.signals.base import Signals
from lightning_select.signals.contract import contract_error, manual_error, parse_output, rows_of, takes_batch_index
from lightning_select.signals.head.capture import HeadCapture, HeadReached
from lightning_select.signals.head.head import Head
from lightning_select.signals.head.lazy_logits import UnfollowedError
from lightning_select.signals.head.reader import HeadReader
from lightning_select.signals.layout.compiled import is_compiled, may_be_compiled, runs_compiled, told_uncompiled
from lightning_select.signals.layout.experiments import device_of, examine
from lightning_select.signals.layout.known import Flags, KnownSteps
from lightning_select.signals.layout.noise import RowNoise, skip_draws
from lightning_select.signals.layout.probe import Run, StepShape
from lightning_select.signals.memory import is_out_of_memory, pass_on_out_of_memory
from lightning_select.signals.pieces import Pieces, Room
from lightning_select.signals.reading import losses_seen, read_signals, with_attended
from lightning_select.signals.recording.capture import Capture
from lightning_select.signals.selection_step import asked
from lightning_select.signals.sharded import sharding_strategy
from lightning_select.signals.traceless.surroundings import Surroundings
from lightning_select.signals.unweighted import Unweighted
from lightning_select.types import Batch

__all__ = ["StepRunner"]

_Read = tuple[Signals | None, tuple[str, ...], Flags | None]
"""Signals where the step was as expected, the reductions that it made, and those that its loss depends on if known."""


class StepRunner:
    """Runs one module's step as often as needed; the module, its Trainer and every random generator stay as they were.

    Args:
        module: The LightningModule.
        trainer: Its Trainer, whose precision applies and whose loggers are muted.
        step: The module's ``training_step``, before anyone wrapped it.
        known: What is known of the module's steps; shared by the runners of one fit.
        head: Submodule that is the output head, for scores that use it; ``None`` looks for it.
        train_mode: Leave every submodule in the mode it is in; dropout and BatchNorm then act as in training.
        room: How many rows fit into memory; shared by runners whose losses are compared.
    """

    def __init__(
        self,
        module: nn.Module,
        trainer: Any,
        step: Callable[..., Any],
        *,
        known: KnownSteps | None = None,
        train_mode: bool = False,
        head: str | None = None,
        room: Room | None = None,
    ) -> None:
        self._module, self._trainer, self._step = module, trainer, step
        self._takes_index = takes_batch_index(module, step)
        self._surroundings = Surroundings(module, trainer, train_mode=train_mode)
        self.known = KnownSteps() if known is None else known
        self._last: StepShape | None = None
        self._eager, self._unweighted, self._losses = False, Unweighted(module), list[tuple[int, Tensor]]()
        self._head = HeadReader(module, sharding_strategy(getattr(trainer, "strategy", None)), head)
        self.room = room or Room()
        self._pieces = Pieces(module, trainer, self.room, train_mode=train_mode)

    def measure(self, batch: Batch, needs: Collection[str]) -> Signals:
        """The signals of every row of ``batch``.

        Args:
            batch: The batch, on its device.
            needs: Names of the signals to read; those that the step does not show are ``None``.

        Raises:
            TrainingStepContractError: The step cannot be read row by row.
            BatchFormatError: The rows of the batch cannot be counted.
            ScoringMemoryError: Memory runs out, with pieces of the batch too.
        """
        return self._pieces.measure(batch, partial(self._measure, needs=needs))

    def shows_losses(self, needs: Collection[str]) -> bool:
        """Do passes for these signals have losses, or may they end before there is one, but for the first?"""
        return hasattr(self._module, "selection_step") or not self._head.may_read(needs)

    def _measure(self, batch: Batch, needs: Collection[str]) -> Signals:
        if hasattr(self._module, "selection_step"):
            return asked(self._module, self._surroundings, batch, rows_of(batch))
        known = self._last or self.known.first
        if known is not None and self._head.can_read(needs):
            seen, _ = self._surroundings.attempt(self._read_head, batch, known)
            if isinstance(seen, Signals):
                return with_attended(seen, batch)
            self._head.refuse(seen or "another head, or rows elsewhere, than in the batch before")
        signals = self._measure_in_full(batch, known, needs)
        if "head" not in needs or signals.logits is None:
            return signals
        seen, losses, self._losses = None, self._losses, []
        if self._last is not None and self._head.wants_trial(needs):
            run = partial(self._surroundings.attempt, self._read_head, batch, self._last)
            seen = self._head.try_out(run, signals, losses)
        # From the first batch on, so that a resumed run measures like one that was never interrupted.
        whole = replace(signals, head=Head.of(signals.logits)) if seen is None else replace(seen, loss=signals.loss)
        return with_attended(whole, batch)

    def _measure_in_full(self, batch: Batch, known: StepShape | None, needs: Collection[str]) -> Signals:
        """The signals from a pass that runs the step to its end."""
        self._losses = []
        reached: Flags | None = None
        for _ in range(4):
            guess = known or self.probe(batch, reached=reached)
            signals, names, reached = self._read_somehow(batch, guess, needs, examined=known is None)
            if signals is not None:
                self._last = guess
                return signals
            known = self.known.of(names, reached, self._surroundings.trained)
        raise contract_error(self._module, f"other reductions in every pass over one batch, at last {list(names)}")

    def _read_somehow(self, batch: Batch, guess: StepShape, needs: Collection[str], *, examined: bool) -> _Read:
        """As `_read`; a compiled step that fails while it is watched, or hides its reductions, runs uncompiled."""
        run = partial(self._surroundings.attempt, self._read, batch, guess, needs, examined=examined)
        try:
            found: _Read = run()
            if self._eager or found[1] in self.known or not is_compiled(self._module):
                return found
        except Exception as error:
            if self._eager or is_out_of_memory(error) or not may_be_compiled(self._module, error):
                raise
        self._eager = True
        told_uncompiled(self._module, "scored")
        return self._read_somehow(batch, guess, needs, examined=examined)

    def runs_compiled(self, batch: Batch, batch_idx: int | None) -> bool:
        """May the step, which was probed before, be watched as it is compiled, to be differentiated?"""

        def trial() -> tuple[Run, Tensor | None]:
            watch = Capture(gated=True, before_write=self._surroundings.keeper.before_write)
            with self._running(batch, batch_idx=batch_idx, grad=True, capture=watch) as step:
                return step()

        return runs_compiled(self._module, partial(self._surroundings.attempt, trial), getattr(self._last, "names", ()))

    def _read(self, batch: Batch, guess: StepShape, needs: Collection[str], *, examined: bool) -> _Read:
        """One scoring pass, read as a step of shape ``guess``; no signals where it turns out to be another."""
        layers = (which := self._head.which(needs)).wants_layers(needs, guess)
        eager = self._eager or "head" in needs or which.wants_layers(needs)  # a compiled layer shows neither
        with self._running(batch, connected=guess.asked, want_linear=layers, eager=eager) as step:
            run, losses = step()
            if losses is not None:
                return Signals(loss=losses.float()), run.names, None
            fits, reached = self.known.judge(guess, run, self._surroundings.trained, examined=examined)
            if not fits:
                return None, run.names, reached
            if guess.plain or reached is not None:
                signals = read_signals(run, guess, needs, self._pieces.scales, which)
                self._losses = losses_seen(run, guess) if self._head.wants_trial(needs) else []
                return signals, run.names, reached
        if eager:
            raise contract_error(self._module, "a loss that depends on none of the reductions seen before")
        # A step that is compiled as a whole hides how its terms are combined; what it computes is the same uncompiled.
        self._eager = True
        return None, run.names, None

    def _read_head(
        self, batch: Batch, guess: StepShape, *, others: Collection[int] = ()
    ) -> tuple[Signals | str | None, HeadCapture]:
        """One pass that ends at the loss; the reason where the step uses its logits before."""
        self._head.cache.step = getattr(self._trainer, "global_step", 0)
        capture = self._head.capture(guess, self._surroundings.keeper.before_write, others)
        with self._running(batch, capture=capture, eager=True) as step:
            try:
                step()
            except HeadReached as reached:
                return self._head.read(capture, reached, guess, rows_of(batch)), capture
            except UnfollowedError as error:
                return f"the step uses the logits before the loss, by {error}", capture
            except Exception as error:  # with logits that are not there; one of the step's own comes again in full
                pass_on_out_of_memory(error)
                return f"the step fails without the logits: {error}", capture
        return None, capture

    def is_ready(self, rows: int) -> bool:
        """Was a step probed yet, on a batch that shows where its rows are, if there are several now?"""
        return bool(self.known) and (rows == 1 or self.known.sure)

    def probe(self, batch: Batch, batch_idx: int | None = None, *, reached: Flags | None = None) -> StepShape:
        """Find out where the rows are in the step's reductions; runs the step a few times, once per kind of step.

        Args:
            batch: The batch, on its device.
            batch_idx: What the step is told as its index; ``None``: that of the batch which comes next.
            reached: Which reductions its loss was seen to depend on; where two rows show others, all are looked at.

        Raises:
            TrainingStepContractError: The step shows no loss per row.
        """
        if not getattr(self._module, "automatic_optimization", True):
            raise manual_error(self._module)

        def run(batch: Batch, **how: Any) -> tuple[Run, Tensor | None]:
            with self._running(batch, batch_idx=batch_idx, eager=True, **how) as step:
                return step()

        look = partial(examine, self._module, partial(self._surroundings.attempt, run), batch, rows_of(batch))
        shape = look()
        if reached not in (None, shape.reached) and not shape.whole:
            shape = look(whole=True)
        self._last = shape = replace(shape, trained=self._surroundings.trained)
        self.known.add(shape)
        self._unweighted.tell(shape, accumulates=self._surroundings.gradients.accumulates)
        return shape

    @contextmanager
    def _running(
        self,
        batch: Batch,
        *,
        grad: bool = False,
        connected: tuple[bool, ...] | None = None,
        want_linear: bool = False,
        noise: RowNoise | None = None,
        draws: int = 0,
        eager: bool = False,
        batch_idx: int | None = None,
        capture: Capture | None = None,
    ) -> Iterator[Callable[[], tuple[Run, Tensor | None]]]:
        """A function that runs the step, and time to look at what it left before it is put back."""
        rows, writes = rows_of(batch), self._surroundings.keeper.before_write
        capture = capture or Capture(connected=connected, want_linear=want_linear, before_write=writes)
        index = [next_batch_index(self._trainer) if batch_idx is None else batch_idx] if self._takes_index else []

        def step() -> tuple[Run, Tensor | None]:
            arguments = (shallow_copy(batch), *index)
            with capture, noise or nullcontext():
                output = self._step(*arguments)
            loss, losses = parse_output(self._module, output, rows)
            return Run.of(self._module, capture, loss, rows), None if losses is None else losses.detach()

        with self._surroundings.around(batch, grad=grad, eager=eager):
            if draws:
                skip_draws(device_of(batch), draws)
            yield step
