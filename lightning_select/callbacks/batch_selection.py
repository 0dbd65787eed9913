"""Select, then train: score the candidate batch, keep the best rows, and let the user's step see only those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_select import distributed
from lightning_select.batch import take_rows
from lightning_select.callbacks.advice import on_a_fresh_model, on_memory, on_pieces, on_sizes
from lightning_select.callbacks.base import SelectionCallback
from lightning_select.callbacks.choice import checked_scores, checked_selection, name_of
from lightning_select.callbacks.keep import check_keep, kept_count
from lightning_select.callbacks.loaders import is_steady
from lightning_select.callbacks.metrics import selection_metrics
from lightning_select.callbacks.reference_check import check_reference, known_losses
from lightning_select.callbacks.restoring import saved_selection
from lightning_select.callbacks.selection_checks import check_arguments
from lightning_select.callbacks.stopwatch import Stopwatch
from lightning_select.compat import next_batch_index, starts_amid_epoch, steps_so_far
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.protocols import Score, SelectionContext, Selector
from lightning_select.schedule import Anneal, Schedule, resolve
from lightning_select.seeding import generator_at
from lightning_select.signals.base import Signals
from lightning_select.signals.contract import NothingReturnedError, manual_error, rows_of
from lightning_select.signals.reference import Reference, UsesReference, open_reference
from lightning_select.signals.scoring import StepRunner
from lightning_select.types import Batch

__all__ = ["BatchSelection"]

_WITHOUT_NEEDS = frozenset({"loss", "logits", "targets"})


class BatchSelection(SelectionCallback):
    r"""Keeps the most useful rows of every candidate batch; the training step never sees the others.

    The loader yields candidate batches. Each one is scored by a forward pass that leaves no trace (no gradient,
    evaluation mode, the Trainer's precision; logging, metrics, BatchNorm, every random generator and all else that the
    step touches are as before, except what it writes to objects other than the module, its optimizers and schedulers,
    such as other callbacks, which stays), the selector takes a constant number of rows on the device, and every later
    hook and the training step see just those. The module, the dataset and the collate function stay as they are.

    Args:
        score: Signals to one number per row, higher is more useful; a `Score`, which gets what its ``needs`` name, or a
            function ``signals -> scores``, which sees ``loss``, ``logits`` and ``targets`` only.
        selector: Which rows to keep, given the scores. One with weights needs automatic optimisation.
        keep: Share of the candidate batch (a float in (0, 1]) or number of rows (an int). May be an `Anneal`.
        schedule: When to act; outside, whole batches are trained on.
        name: Prefix of the metrics and key in the checkpoint; needed when two callbacks are of one kind.
        train_mode: Score with every submodule in the mode it trains in (dropout, BatchNorm on the candidate batch)
            instead of evaluation mode. For modules that cannot compute a loss in evaluation mode.
        id_key: Entry of the batch that holds row ids (a key, or a position in a list); ``None`` takes them from the
            loader's sampler, whose order batches must keep, where a score needs them.
        head: Name of the submodule whose logits are scored, for scores and selectors that use logits, what enters the
            last layer, or the output head; ``None`` looks for the linear layer that makes the logits.
        seed: Seed of selectors that draw. Draws are a function of (seed, step, rank).

    Raises:
        ArgumentError: A value is out of range.

    Logs, on the logger's cadence: ``active``, ``kept_share``, ``score_kept``, ``score_dropped``, ``not_finite`` (rows
    that could not be scored), ``scoring_seconds``; ``weight_entropy``, ``weight_max`` for selectors with weights;
    ``length_kept``, ``length_dropped`` (counted tokens per row) where rows have tokens; and what the selector adds
    (`Diverse`: ``memory_fill``, ``novelty_kept``).

    Example::

        Trainer(callbacks=[BatchSelection(Loss(), TopK(), keep=0.25)])
    """

    def __init__(
        self,
        score: Score | Callable[..., Tensor],
        selector: Selector,
        *,
        keep: float | int | Anneal,
        schedule: Schedule | None = None,
        name: str | None = None,
        train_mode: bool = False,
        id_key: str | int | None = None,
        head: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__("batch_selection" if name is None else name, schedule)
        check_arguments(score, selector, train_mode, head, seed)
        check_keep(keep)
        self.score = score
        self.selector = selector
        self.keep = keep
        self.train_mode = train_mode
        self.id_key = id_key
        self.head = head
        self.seed = seed
        self._needs = (score.needs if isinstance(score, Score) else _WITHOUT_NEEDS) | selector.needs
        self._state: Mapping[str, Tensor] = {}
        self._reference: Reference | None = None
        self._reference_state: Mapping[str, Any] = {}
        self._runner: StepRunner | None = None
        self._trainer: Any = None
        self._sized = self._measured = self._advised = False
        self._stopwatch, self._whole_from, self._strict = Stopwatch(), 0, True

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Step between Trainer and module.

        Raises:
            ConfigurationError: Two of our callbacks have one name.
            TrainingStepContractError: The module optimises by hand and has no ``selection_step``.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or self.interception is None:
            return
        if not pl_module.automatic_optimization and not hasattr(pl_module, "selection_step"):
            raise manual_error(pl_module)
        self._trainer = trainer
        self._sized = self._measured = self._advised = False
        self._state, self._reference_state, self._reference = {}, {}, None
        self._runner = self.interception.runner(train_mode=self.train_mode, head=self.head)
        if "reference_loss" in self._needs and isinstance(self.score, UsesReference):
            self._reference = open_reference(
                name_of(self.score), self.score.reference, train_mode=self.train_mode, room=self._runner.room
            )
        if "ids" in self._needs or (self._reference is not None and self._reference.needs_ids):
            self.interception.want_ids(self.id_key)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the reference ready, which may mean to train it."""
        super().on_train_start(trainer, pl_module)
        # A resumed run may begin with a small batch, the last of an epoch or one of any size: `keep` may be larger.
        self._whole_from = trainer.current_epoch + starts_amid_epoch(trainer)
        self._strict = trainer.global_step == 0 or is_steady(trainer.train_dataloader)
        if self._reference is not None and self.interception is not None:
            self._reference.load_state_dict(self._reference_state)
            self._reference.prepare(trainer, pl_module, self.interception.dataset_rows)

    def reshape(self, batch: Batch) -> tuple[Batch, Tensor | None, Tensor | None]:
        """The rows of ``batch`` to train on, their positions in it, and their weights."""
        step = steps_so_far(self._trainer)
        if not self.acts_at(step):
            return batch, None, None
        rows = rows_of(batch)
        count = self._count(step, rows)
        score = resolve(self.score, step, self.total_steps)
        selector = resolve(self.selector, step, self.total_steps)
        if count == rows and not selector.with_replacement:
            self.say_once(f"{self.name} keeps every row of a batch of {rows}, so it has nothing to select.")
            return batch, None, None
        with self._stopwatch.on(self._trainer.strategy.root_device):
            signals = self._measure_unless_skipped(batch)
            if signals is None:
                return batch, None, None
            scores = checked_scores(name_of(score), score(signals), rows)
            place = (self.seed, step, next_batch_index(self._trainer), distributed.rank())
            memory = {key: value.to(scores.device) for key, value in self._state.items()}
            context = SelectionContext(signals, generator_at(scores.device, *place), memory, step)
            selection = selector(scores, count, context)
            index, weights = checked_selection(
                name_of(selector), selection, scores, count, self._verdicts, with_replacement=selector.with_replacement
            )
            self._state = selection.state
        self._tell(signals, scores)
        self._advise(rows, count, signals)
        if weights is not None and not self._trainer.lightning_module.automatic_optimization:
            raise manual_error(self._trainer.lightning_module, name_of(selector), "a selector without weights")
        self._metrics = lambda: selection_metrics(
            scores, index, weights, self._stopwatch.seconds(), signals.valid, selection.metrics
        )
        return take_rows(batch, index), index, weights

    def state_dict(self) -> dict[str, Any]:
        """Memory of the selector on every rank, and of the reference; tensors and primitives only."""
        reference = self._reference_state if self._reference is None else self._reference.state_dict()
        own = {key: value.detach().cpu().contiguous() for key, value in self._state.items()}
        return {"selector": distributed.gather_objects(own), "reference": dict(reference)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the memory of the run that saved it."""
        memories, self._reference_state = saved_selection(self.name, state_dict)
        self._state = dict(memories[distributed.rank() % len(memories)])
        if len(memories) != distributed.world_size():
            self.say_once(
                f"{self.name} goes on with the memories of {len(memories)} ranks on {distributed.world_size()}: "
                "what was chosen before counts, but not exactly as without the interruption."
            )

    def _measure_unless_skipped(self, batch: Batch) -> Signals | None:
        """The signals, or ``None`` for a batch that the step skips. Skipping the very first is an error."""
        try:
            signals = self._measure(batch)
        except NothingReturnedError:
            if not self._measured:
                raise
            self.say_once(f"{self.name} selects nothing from a batch for which training_step returns None.")
            return None
        self._measured = True
        return signals

    def _measure(self, batch: Batch) -> Signals:
        if self._runner is None or self.interception is None:
            raise ConfigurationError(f"{self.name} must be set up by a Trainer's fit before it can score a batch.")
        signals = self._runner.measure(batch, self._needs)
        if (ids := self.interception.ids) is not None:
            signals = replace(signals, ids=ids)
        if self._reference is None:
            return signals
        room = self._runner.room.rows
        losses = self._reference.losses(batch, ids)
        if self._runner.room.rows != room:
            return self._measure(batch)  # the reference needs smaller pieces, and losses are compared piece by piece
        signals = replace(signals, reference_loss=losses)
        self._judge(self._reference, batch, signals, losses, whole=room is None)
        return signals

    def _tell(self, signals: Signals, scores: Tensor) -> None:
        """What others may hear of the candidates: nothing that a run resumed here would have of another batch."""
        if self.interception is not None and self._runner is not None:
            shown = signals if self._runner.shows_losses(self._needs) else replace(signals, loss=None)
            self.interception.overheard(self, shown, scores)

    def _advise(self, rows: int, count: int, signals: Signals) -> None:
        if not self._advised and self._sized:  # by a batch of whole size
            self._advised = True
            batches = self._trainer.accumulate_grad_batches
            lines = on_sizes(self.name, self.keep, count, rows, self._trainer.world_size * batches)
            for line in (*lines, *on_memory(self.selector, self.total_steps, count, batches)):
                self.say_once(line)
            on_a_fresh_model(self.score, self._trainer, signals)

    def _judge(self, reference: Reference, batch: Batch, signals: Signals, losses: Tensor, *, whole: bool) -> None:
        """A table must know every row, and before the first step any reference must know the data better than we do."""
        owner = name_of(self.score)
        if reference.needs_ids:
            self._verdicts.note(owner, known_losses, losses)
        if reference.needs_ids and not whole:
            self.say_once(on_pieces(owner), distributed.rank())
        elif not self._checked and self._trainer.global_step == 0 and signals.loss is not None:
            check_reference(owner, reference, batch, signals.loss, losses, whole=whole)

    def _count(self, step: int, rows: int) -> int:
        keep = self.keep.at(step, self.total_steps) if isinstance(self.keep, Anneal) else self.keep
        whole = self._trainer.current_epoch >= self._whole_from
        if isinstance(keep, int) and keep > rows and whole and self._strict and not self._sized:
            raise ArgumentError(f"BatchSelection.keep must be at most the rows of a batch ({rows}), got {keep}.")
        self._sized = self._sized or whole
        return kept_count(keep, rows)
