"""The one place where lightning-select stands between the Trainer and the user's module.

There is one `Interception` per fit, shared by all our callbacks, so that they stack in any order. It wraps four
methods on the instances that the Trainer uses, and takes every wrap off again at the end of the fit or on an error:

* ``strategy.batch_to_device``: a training batch that has just reached its device is cut to the selected rows, so that
  every later hook and the training step see the same rows. (The module's own ``on_after_batch_transfer`` would be too
  early a place: a data module may override it.)
* ``module.training_step``: runs under `Capture` where weights are to be applied.
* ``strategy.process_dataloader``: lets the row ids of a loader be recorded before its first batch is drawn.
* ``strategy.teardown``: called even where an error left the callbacks hidden from the Trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lightning_select.callbacks.clock import Clock
from lightning_select.callbacks.member import Member
from lightning_select.callbacks.row_ids import RowIds
from lightning_select.callbacks.weighing import WeighedStep
from lightning_select.callbacks.wrap import Wrap
from lightning_select.compat import count_training_loaders, trainer_of
from lightning_select.errors import ConfigurationError, TrainingStepContractError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.ledger import Arrival
from lightning_select.signals.base import Signals
from lightning_select.signals.contract import contract_error, rows_of
from lightning_select.signals.layout.known import KnownSteps
from lightning_select.signals.scoring import StepRunner
from lightning_select.signals.sharded import check_strategy
from lightning_select.signals.traceless.surroundings import Surroundings
from lightning_select.types import Batch

__all__ = ["Interception"]


class Interception:
    """The wraps of one fit, and the callbacks that share them.

    Args:
        trainer: The Trainer.
        module: The LightningModule that it fits.

    Attributes:
        offered: Row ids of the batch as it was loaded, where someone wants ids.
        ids: Those of the rows that are left of it.
        taken: Their positions in the batch as it was loaded; ``None``: all of them.
        applied: Weights of the rows that were trained on; ``None``: all alike, or those of the loss's own making.
        clock: Times the callbacks, where someone wants to know.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self.trainer = trainer
        self.module = module
        self.members: list[Member] = []
        self.known = KnownSteps()
        self.step: Callable[..., Any] = module.training_step
        self._undo: list[Callable[[], None]] = []
        self.ids: Tensor | None = None
        self.offered: Tensor | None = None
        self.taken: Tensor | None = None
        self.applied: Tensor | None = None
        self.clock: Clock | None = None
        self._row_ids: RowIds | None = None
        self._loaders = 0
        self._weights: Tensor | None = None
        self._weighed = WeighedStep(
            module, self.runner(train_mode=True), lambda: Surroundings(module, trainer, train_mode=True)
        )

    @classmethod
    def join(cls, member: Member, trainer: Any, module: Any) -> Interception:
        """The interception of this fit, opened by the first callback that asks.

        Raises:
            ConfigurationError: It cannot train by this strategy.
        """
        check_strategy(type(member).__name__, trainer.strategy)
        # Lightning's tuner takes all callbacks away for a while, but not our wraps.
        holders = [*trainer.callbacks, vars(trainer.strategy).get("batch_to_device")]
        shared = (getattr(holder, "interception", None) for holder in holders)
        found = next((one for one in shared if isinstance(one, cls) and one.module is module), None)
        interception = found or cls(trainer, module)
        if member not in interception.members:  # a loader that is made anew asks again
            interception.members.append(member)
        if found is None:
            interception._open()
        return interception

    def leave(self, member: Member) -> None:
        """The last one out takes the wraps off."""
        if member in self.members:
            self.members.remove(member)
        if not self.members:
            while self._undo:
                self._undo.pop()()

    def runner(self, *, train_mode: bool, head: str | None = None) -> StepRunner:
        """Runs the module's own step without a trace."""
        return StepRunner(self.module, self.trainer, self.step, known=self.known, train_mode=train_mode, head=head)

    def overheard(self, owner: Member, signals: Signals, scores: Tensor) -> None:
        """Tell all but ``owner`` what it saw of the candidate rows, and their scores."""
        for member in [one for one in self.members if one is not owner]:
            member.overhear(signals, scores)

    def want_ids(self, id_key: str | int | None) -> None:
        """Have `ids` hold the row ids of every batch.

        Raises:
            ConfigurationError: Two callbacks look for the ids in different places.
        """
        if self._row_ids is not None and self._row_ids.id_key != id_key:
            raise ConfigurationError(
                f"id_key must be the same for all callbacks of a Trainer, got {self._row_ids.id_key!r} and {id_key!r}."
            )
        self._row_ids = self._row_ids or RowIds(id_key)
        self._row_ids.needed = True

    def follow(self, loader: Any, sampler: OnlineSampler) -> None:
        """Keep account of what a sampler of ours draws for this training loader."""
        self._row_ids = self._row_ids or RowIds(sampler.id_key)
        self._watch(loader, sampler)

    @property
    def arrival(self) -> Arrival | None:
        """What a sampler of ours noted of the rows of this batch when it drew them."""
        return None if self._row_ids is None else self._row_ids.arrival

    @property
    def dataset(self) -> Any:
        """The training dataset, where its loader is listened to."""
        return None if self._row_ids is None else self._row_ids.dataset

    @property
    def dataset_rows(self) -> int | None:
        """Length of the training dataset, where its loader is listened to."""
        return None if self._row_ids is None else self._row_ids.dataset_rows

    def _open(self) -> None:
        self._wrap(self.trainer.strategy, "batch_to_device", self._batch_to_device)
        self._wrap(self.trainer.strategy, "process_dataloader", self._process_dataloader)
        self._wrap(self.module, "training_step", self._training_step)
        self._wrap(self.trainer.strategy, "teardown", self._torn_down)

    def _wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        def step_between(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            # Where another callback's `on_exception` fails, Lightning tells nobody behind it that the fit is over.
            over = not self.members or trainer_of(self.module) is not self.trainer
            return original(*args, **kwargs) if over else around(original, args, kwargs)

        wrap = Wrap(step_between, owner, name)
        wrap.interception = self
        wrap.put()
        self._undo.append(wrap.take_off)

    def _torn_down(self, original: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Dismiss those that the Trainer will not: its tuner takes all callbacks away, and an error leaves it so.

        All others still have `on_fit_end` before them, which comes after this and before their own teardown.
        """
        original(*args, **kwargs)
        for member in [one for one in self.members if one not in self.trainer.callbacks]:
            member.teardown(self.trainer, self.module, "fit")

    def _in_order(self) -> list[Member]:
        return [callback for callback in self.trainer.callbacks if callback in self.members]

    def _batch_to_device(self, original: Callable[..., Any], args: Any, kwargs: Any) -> Batch:
        batch = original(*args, **kwargs)
        if not self.trainer.training:
            return batch
        self._weights = self.applied = None
        if self._row_ids is not None:
            device = self.trainer.strategy.root_device
            self._loaders = self._loaders or count_training_loaders(self.trainer)
            self.ids = self._row_ids.of(batch, 0 if batch is None else rows_of(batch), device, self._loaders)
            drawn = None if self.arrival is None else self.arrival.weights
            if isinstance(drawn, list):
                drawn = torch.tensor(drawn, dtype=torch.float32)
            self._weights = None if drawn is None else drawn.to(device, torch.float32)
        self.offered, self.taken = self.ids, None
        for member in [] if batch is None else self._in_order():  # Lightning skips a batch that is None
            with nullcontext() if self.clock is None else self.clock.of(member):
                batch, index, weights = member.reshape(batch)
            if index is not None:
                self.taken = index if self.taken is None else self.taken[index]
                self._weights = None if self._weights is None else self._weights[index]
                self.ids = None if self.ids is None else self.ids[index]
            if weights is not None:
                self._weights = weights if self._weights is None else self._weights * weights
        return batch

    def _process_dataloader(self, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        loader = original(*args, **kwargs)
        if self.trainer.training and self._row_ids is not None:
            self._watch(loader, None)
        return loader

    def _watch(self, loader: Any, sampler: OnlineSampler | None) -> None:
        self._loaders = 0  # to be counted when the first batch arrives
        stop = None if self._row_ids is None else self._row_ids.watch(loader, sampler)
        self._undo += [] if stop is None else [stop]

    def _training_step(self, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        members = self._in_order()
        weighers = [member for member in members if member.weighs()]
        listeners = [member for member in members if member.wants]
        idle = self._weights is None and not weighers and not listeners
        if idle or not torch.is_grad_enabled():
            return original(*args, **kwargs)
        insisting = self._weights is not None or weighers or any(member.insists for member in listeners)

        def weigh(measure: Callable[[], Signals], rows: int, *, own: bool = False) -> Tensor | None:
            if own:
                excuse(contract_error(self.module, f"{rows} losses of rows of the module's own making"))
            return self._weights_of(measure, rows, weighers, listeners, own)

        def excuse(error: TrainingStepContractError) -> None:
            for member in listeners:
                member.cannot_hear(error)

        needs = frozenset(name for member in listeners for name in member.wants if name != "loss")
        how = {"weighs": self._weights is not None or bool(weighers), "lenient": not weighers}
        mildly = None if insisting else excuse
        around = nullcontext(original) if self.clock is None else self.clock.around(original, weighers or listeners)
        with around as step:
            return self._weighed(step, args, kwargs, weigh, needs, **how, excuse=mildly)

    def _weights_of(
        self, measure: Callable[[], Signals], rows: int, weighers: list[Member], listeners: list[Member], own: bool
    ) -> Tensor | None:
        total = self._weights
        if total is not None and total.shape[0] != rows:
            raise contract_error(self.module, f"{rows} rows of its own making, where {total.shape[0]} were weighted")
        signals = measure() if weighers or listeners else Signals()
        for member in listeners:
            member.hear(signals)
        for member in weighers:
            weights = member.weigh(signals.loss)
            if weights is not None:
                total = weights if total is None else total * weights
        self.applied = None if own else total
        return total
