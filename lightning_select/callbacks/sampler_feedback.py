"""Feed a sampler: after every step tell it which rows were trained on and what the model said about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lightning_select.batch import shallow_copy
from lightning_select.callbacks.base import SelectionCallback
from lightning_select.callbacks.feed import BY_ITSELF, note_on, restored_late, returned_signals, unreadable_success
from lightning_select.callbacks.gathering import Gathering, of_all_ranks
from lightning_select.callbacks.interception import Interception
from lightning_select.callbacks.loaders import (
    batch_rows,
    check_loader,
    draws_ahead,
    find_sampler,
    keep_sampler,
    keep_state,
    lag_of,
    settle,
    so_far,
)
from lightning_select.callbacks.restoring import saved_feedback
from lightning_select.callbacks.wrap import Wrap
from lightning_select.compat import count_as_started, planned_steps, rank_zero_info, starts_amid_epoch
from lightning_select.device_loader import DeviceLoader
from lightning_select.errors import MissingSignalError, TrainingStepContractError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.progress import Progress
from lightning_select.samplers.success import SOURCES
from lightning_select.signals.base import Signals
from lightning_select.signals.contract import NothingReturnedError, manual_error
from lightning_select.signals.correctness import share_correct
from lightning_select.types import Batch, Float, Int

__all__ = ["SamplerFeedback"]

_CLASSIFICATION = frozenset({"logits", "targets"})


class SamplerFeedback(SelectionCallback):
    """Tells the sampler of the training loader what every step learnt, and keeps its state in the checkpoint.

    Lightning attaches one to every Trainer by itself where entry points are on; it does nothing unless the training
    loader has a sampler of ours. Add one by hand where they are off, or to choose its name.

    A sampler that learns from losses hears the loss of each row of the forward pass that happens anyway. One that
    learns from success hears the rewards (rows, attempts) that ``training_step`` returns beside the loss as
    ``"reward"``, or the share of right answers of each row as ``"correct"``, or else sees for itself which rows the
    step classified right.

    Args:
        name: Prefix of the metrics and key in the checkpoint.

    Raises:
        ConfigurationError: The loader cannot be followed, or the Trainer replaces its sampler.

    Logs, on the logger's cadence: ``active``, ``lag`` (batches between draw and use), and what the sampler has to say.
    """

    def __init__(self, *, name: str = "sampler") -> None:
        super().__init__(name, None)
        self.sampler: OnlineSampler | None = None
        self._attached_by_itself, self._sees_success, self._rows = False, False, 0
        self._undo: list[Callable[[], None]] = []
        self._state: Mapping[str, Any] | None = None
        self._heard: Signals | None = None
        self._whole: Batch | None = None
        self._trainer: Any = None
        self._gathering = Gathering(type(self).__name__)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Look out for training loaders.

        Raises:
            ConfigurationError: Two of our callbacks have one name, or the Trainer would replace our sampler.
        """
        others = [one for one in trainer.callbacks if isinstance(one, SamplerFeedback) and one is not self]
        for one in others:
            one.standing_by = one._attached_by_itself
        self.standing_by = self._attached_by_itself and bool(others)
        if not self.standing_by:
            self._check_name(trainer)
        if self.standing_by or stage != "fit":
            return
        self._leave()
        self._trainer, self.sampler, self._state, self._sees_success = trainer, None, None, False
        # First of all, so that whatever another callback saves holds the batch that has just been trained on.
        trainer.callbacks = [self, *(one for one in trainer.callbacks if one is not self)]
        wrap = Wrap(self._process_dataloader, trainer.strategy, "process_dataloader")
        wrap.put()
        self._undo += [wrap.take_off, keep_sampler(trainer)]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Learn how long training will be."""
        if self.sampler is None:
            return
        super().on_train_start(trainer, pl_module)
        how = {"steady": self._rows > 0, "amid": starts_amid_epoch(trainer)}
        self._gathering = Gathering(self.sampler.owner, rows=self._rows, **how)
        self.sampler.progress = so_far(trainer, self.sampler.progress, self.total_steps)

    @property
    def wants(self) -> frozenset[str]:
        """What the sampler learns from, as far as the step does not return it."""
        if self.sampler is None or not self._trainer.lightning_module.automatic_optimization:
            return frozenset()
        return (self.sampler.needs & {"loss"}) | (_CLASSIFICATION if self._sees_success else frozenset())

    def reshape(self, batch: Batch) -> tuple[Batch, Tensor | None, Tensor | None]:
        """The batch as it is; its weights are known already."""
        arrival, module = getattr(self.interception, "arrival", None), self._trainer.lightning_module
        if arrival is not None and arrival.weights is not None and not module.automatic_optimization:
            raise manual_error(module, type(self.sampler).__name__, "a sampler without weights")
        return batch, None, None

    def hear(self, signals: Signals) -> None:
        """Keep them until the step is over."""
        self._heard = signals

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Keep a first batch as it is: the step, which may take it apart, may have to be run on it once more."""
        asks = self.sampler is not None and "success" in self.sampler.needs and not self._sees_success
        self._whole = shallow_copy(batch) if asks else None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Feed the sampler, log, and close the epoch after its last batch."""
        sampler = self.sampler
        if sampler is None or self.interception is None:
            return
        if batch is None:
            count_as_started(trainer)
        arrival, ids = self.interception.arrival, self.interception.ids
        if sampler.needs and ids is not None:
            self._feed(sampler, ids, outputs)
        self._heard = self._whole = None
        sampler.landed()
        sampler.progress = so_far(trainer, sampler.progress, sampler.progress.total_steps)
        self._metrics = lambda: {"active": 1.0, **lag_of(arrival), **self._told(sampler)}
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.is_last_batch:
            sampler.close_epoch()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """The epoch is over, however it ended; let the sampler plan one of another length."""
        super().on_train_epoch_end(trainer, pl_module)
        self._gathering.next_epoch()
        if self.sampler is not None and self.sampler.close_epoch():
            self.sampler.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """State of the sampler; nothing where there is none of ours."""
        if self.sampler is None or self.standing_by:
            return {}
        return {"sampler": self.sampler.state_dict(), "sees_success": self._sees_success}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hand the state to the sampler as soon as there is one.

        Raises:
            ConfigurationError: The sampler has drawn already, for workers that cannot be called back.
        """
        self._state, self._sees_success = saved_feedback(self.name, state_dict)
        if self.sampler is not None and self.sampler.drawing:
            raise restored_late(self.sampler)
        if self.sampler is not None:
            self._restore(self.sampler)

    def _process_dataloader(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        loader = original(*args, **kwargs)
        if self._undo:
            settle(loader, self._trainer.strategy.root_device)
        if self._undo and (self._trainer.training or not isinstance(loader, DeviceLoader)):
            self._meet(loader)
        return loader

    def _meet(self, loader: Any) -> None:
        found, trainer = find_sampler(loader), self._trainer
        if found is None:
            return
        check_loader(trainer, loader, found, self.sampler)
        previous, self.sampler = self.sampler, found
        self._rows = batch_rows(loader)
        bound = self._rows, draws_ahead(loader), trainer.strategy.root_device, trainer.current_epoch
        found.bind(*bound)
        if previous is None:
            found.progress = Progress()
            found.restart(trainer.current_epoch)
            self._restore(found)
        elif previous is not found:  # the loader was made anew, and a sampler with it
            found.load_state_dict(previous.state_dict(), previous)
            previous.release()
            found.bind(*bound)
        found.progress = so_far(trainer, found.progress, planned_steps(trainer, loader))
        self.interception = Interception.join(self, trainer, trainer.lightning_module)
        if found.needs:
            self.interception.want_ids(found.id_key)
        self.interception.follow(loader, found)
        self._undo.append(keep_state(loader))

    def _restore(self, sampler: OnlineSampler) -> None:
        state, self._state = self._state, None
        if state is None:
            if self._trainer.global_step:
                rank_zero_info(f"{sampler.owner} starts afresh: the checkpoint holds no state of a sampler.")
            return
        how = sampler.load_state_dict(state) or "where the checkpoint was saved, amid an epoch too"
        rank_zero_info(f"{sampler.owner} goes on {how}.")

    def _feed(self, sampler: OnlineSampler, ids: Int[Tensor, "rows"], outputs: Any) -> None:
        module = self._trainer.lightning_module
        signals = returned_signals(sampler, module, outputs, self._heard, ids)
        if "success" in sampler.needs and not signals.keys() & SOURCES and outputs:
            signals |= {} if (correct := self._success(sampler)) is None else {"correct": correct}
        if signals:  # or else the step skipped this batch
            sampler.observe(*of_all_ranks(sampler, self._gathering, ids, signals))

    def _success(self, sampler: OnlineSampler) -> Float[Tensor, "rows"] | None:
        """What the step classified right; at the first batch nobody has looked, so it is run once more."""
        module, signals = self._trainer.lightning_module, self._heard
        if not module.automatic_optimization:
            raise unreadable_success(sampler, module)
        self.say_once(BY_ITSELF.format(owner=sampler.owner))
        try:
            if not self._sees_success and self.interception is not None:
                signals = self.interception.runner(train_mode=False).measure(self._whole, _CLASSIFICATION)
                self._sees_success = True
            seen = signals or Signals()
            return share_correct(seen, sampler.owner) if seen.correct is None else seen.correct
        except NothingReturnedError:
            return None
        except (MissingSignalError, TrainingStepContractError) as error:
            raise unreadable_success(sampler, module) from error

    def _told(self, sampler: OnlineSampler) -> Mapping[str, float | Tensor]:
        """What the sampler has to say, and a word where it cannot make use of the losses."""
        metrics = sampler.metrics()
        if note := note_on(sampler.owner, metrics):
            self.say_once(note)
        return metrics

    def _leave(self) -> None:
        super()._leave()
        while self._undo:
            self._undo.pop()()
        if self.sampler is not None:
            self.sampler.release()
