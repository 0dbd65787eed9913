"""Report: note what happens to every row while a model trains, and write a page about it when training is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_select.callbacks.base import SelectionCallback
from lightning_select.callbacks.clock import Clock
from lightning_select.callbacks.loaders import batch_rows, is_steady
from lightning_select.callbacks.noting import Noting
from lightning_select.callbacks.report_checks import (
    check_arguments,
    dataset_length,
    entry_of,
    period_unit,
    reserve,
    told,
    without_margins,
)
from lightning_select.callbacks.report_parts import gather_report, time_taken
from lightning_select.callbacks.restoring import saved_report
from lightning_select.compat import rank_zero_info, starts_amid_epoch
from lightning_select.errors import TrainingStepContractError
from lightning_select.signals.base import Signals
from lightning_select.types import Batch

__all__ = ["SelectionReport"]

_MARGINS = frozenset({"logits", "targets"})


class SelectionReport(SelectionCallback):
    r"""Writes a page that shows which rows were trained on, which were not, and which are likely mislabelled.

    It listens to the training steps that happen anyway, to every `BatchSelection` and `LossReweighting` of the Trainer
    and to samplers; with none of them it reports on ordinary training. Training is bit for bit what it is without, but
    for rounding where a compiler fuses the loss. At the end of the fit, or when it is interrupted, ``report.html`` (one
    file, no network) and ``rows.csv`` (what is known of each row) are written. Where that fails, a line says why.

    A step that cannot be read row by row is reported on without losses and margins. On several ranks every rank holds
    the whole record and the first one writes. The record is in the checkpoint: some 110 bytes per row of the dataset.

    Args:
        folder: Where the files go; ``None``: a new folder ``selection_report`` beside the logs of the Trainer.
        title: What the run is called on the page.
        class_names: Names of the classes, by number.
        groups: Groups whose shares are compared: one number or name per row of the dataset, or the name of the entry
            of the batch that holds a number per row.
        show: From a row number to what is to be shown of it (an image, a text, numbers); ``None``: what the training
            dataset holds there.
        margins: Read logits and targets for margins, forgetting and likely mislabelled rows, where rows are one
            prediction each, of a class.
        id_key: Entry of the batch that holds row ids; ``None`` takes them from the sampler, whose order batches keep.
        rows: Length of the dataset, where it does not tell.
        name: What it is called in messages, and its key in the checkpoint.

    Raises:
        ArgumentError: A value is out of range.
        ConfigurationError: The folder cannot be written to, or another report of the Trainer goes there.

    Attributes:
        noting: What has been noted so far; ``None`` before training.
        file: The page, when it is written.

    Example::

        Trainer(callbacks=[BatchSelection(Loss(), TopK(), keep=0.25), SelectionReport()])
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        title: str = "Selection report",
        class_names: Sequence[str] = (),
        groups: Sequence[int] | Sequence[str] | str | None = None,
        show: Callable[[int], Any] | None = None,
        margins: bool = True,
        id_key: str | int | None = None,
        rows: int | None = None,
        name: str = "report",
    ) -> None:
        super().__init__(name, None)
        check_arguments(title, class_names, groups, show, margins, rows)
        self.folder, self.title, self.class_names = folder, title, tuple(map(str, class_names))
        self.groups, self.show, self.margins, self.id_key, self.rows = groups, show, margins, id_key, rows
        self.noting: Noting | None = None
        self.file: Path | None = None
        self.notices: list[str] = []
        self.clock = Clock()
        self.seconds, self.earlier = 0.0, dict[str, float]()  # what runs that this one goes on from took
        self.place: Path | None = None
        self._state: Mapping[str, Any] | None = None
        self._started: float | None = None
        self._trainer: Any = None
        self._hears = self._reads_margins = True
        self._group: Tensor | None = None
        self._step, self._looked = 0, False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Listen to the fit.

        Raises:
            ConfigurationError: Two reports go to one folder.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or self.interception is None:
            return
        self.place = reserve(self, trainer)
        # Before those that select, to see what they are offered, and before those that save checkpoints.
        trainer.callbacks = [self, *(one for one in trainer.callbacks if one is not self)]
        self._trainer, self.noting, self.file, self._state = trainer, None, None, None
        self.notices, self.seconds, self.earlier, self._started = [], 0.0, {}, None
        self._hears, self._reads_margins, self._looked = pl_module.automatic_optimization, self.margins, False
        if not self._hears:
            self.note("Manual optimisation shows no losses of rows, so only choices are reported.")
        self.clock = self.interception.clock = self.interception.clock or Clock()
        self.interception.want_ids(self.id_key)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the record.

        Raises:
            ConfigurationError: The length of the dataset is not known, or is not that of the checkpoint.
        """
        super().on_train_start(trainer, pl_module)
        rows, loader = dataset_length(self, self.interception), trainer.train_dataloader
        sizes: Any = {"size": batch_rows(loader), "steady": is_steady(loader), "amid": starts_amid_epoch(trainer)}
        self.noting = Noting(rows, trainer.strategy.root_device, unit=period_unit(trainer), **sizes)
        if self._state is not None:
            self.noting.load_state_dict(self._state["noting"])
            self.seconds, self.earlier = self._state["seconds"], self._state["earlier"]
        self._started = time.perf_counter()

    @property
    def insists(self) -> bool:
        """A report does without what it cannot read."""
        return False

    @property
    def wants(self) -> frozenset[str]:
        """Losses, and what margins are made of."""
        if not self._hears or self.noting is None:
            return frozenset()
        return frozenset({"loss"}) | (_MARGINS if self._reads_margins else frozenset())

    def cannot_hear(self, error: TrainingStepContractError) -> None:
        """Go on without losses."""
        self._hears = False
        self.note(f"Losses and margins could not be read: {str(error).splitlines()[0]}")

    def hear(self, signals: Signals) -> None:
        """Keep what the step said until it is over."""
        if self.noting is not None and self._hears:
            self._look(signals)
            self.noting.hear(signals)

    def overhear(self, signals: Signals, scores: Tensor) -> None:
        """Note what a callback that selects saw of its candidates."""
        if self.noting is not None and self.interception is not None:
            self._look(signals)
            self.noting.overhear(self.interception.taken, signals, scores, margins=self._reads_margins)

    def reshape(self, batch: Batch) -> tuple[Batch, Tensor | None, Tensor | None]:
        """The batch as it is; its groups are noted."""
        self._step = self._trainer.global_step
        self._group = entry_of(batch, self.groups) if isinstance(self.groups, str) else None
        return batch, None, None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Enter the batch. A report is no method, so there is nothing to log."""
        if self.noting is not None and self.interception is not None:
            with self.clock.of(self):
                place = (self._step, trainer.current_epoch)
                self.noting.close(self.interception, *place, self._group, margins=self._reads_margins)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Evaluations are no part of training time."""
        self._stop()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Let the clock run on."""
        if self.noting is not None:
            self._started = time.perf_counter()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the page."""
        self._write(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write the page on what there is."""
        self.note(f"Training ended early, by {told(exception)}")
        self._write(trainer, pl_module)
        super().on_exception(trainer, pl_module, exception)
        self._trainer = None

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Step out again, and let go of the Trainer."""
        super().teardown(trainer, pl_module, stage)
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        """The record, and the time it took."""
        if self.noting is None:
            return {}
        self._stop()
        self._started = time.perf_counter()
        return {"noting": self.noting.state_dict(), "seconds": self.seconds, **time_taken(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the record of the run that saved it."""
        self._state = saved_report(self.name, state_dict)

    def _look(self, signals: Signals) -> None:
        """Find out, at the first batch that shows logits, whether rows have margins: reading them has its price."""
        if not self._looked and signals.logits is not None and self._reads_margins:
            self._looked = True
            if reason := without_margins(signals):
                self._reads_margins = False
                self.note(reason)

    def note(self, notice: str) -> None:
        """Tell the user, and the reader of the page."""
        if notice not in self.notices:
            self.notices.append(notice)
            self.say_once(f"{self.name}: {notice}")

    def _stop(self) -> None:
        if self._started is not None:
            self.seconds += time.perf_counter() - self._started
        self._started = None

    def _write(self, trainer: Any, pl_module: Any) -> None:
        """Write the page and say where; whatever goes wrong, training is not harmed by it."""
        self._stop()
        if self.noting is None or self.place is None or not trainer.is_global_zero:
            return
        if not self.noting.offered:
            self.say_once(f"{self.name}: no batch was seen, so there is nothing to report.")
            return
        try:
            self.file = gather_report(self, trainer, pl_module)
            rank_zero_info(f"{self.name}: {self.file}")
        except Exception as error:  # a full disk, a dataset that cannot be read, and whatever else a page may meet
            rank_zero_info(f"{self.name}: no report was written to {self.place}: {type(error).__name__}: {error}")
