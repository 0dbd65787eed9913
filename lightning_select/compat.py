"""The only file that touches private names of Lightning, and the only one that knows both namespaces.

Every name here has a test that says what to do when it moves.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core import rank_zero

if TYPE_CHECKING:
    from lightning.fabric.utilities.data import sized_len
    from lightning.pytorch import Callback as LightningCallback
    from lightning.pytorch.loggers.logger import DummyLogger
    from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
else:
    try:
        from lightning.fabric.utilities.data import sized_len
        from lightning.pytorch import Callback as LightningCallback
        from lightning.pytorch.loggers.logger import DummyLogger
        from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
    except ImportError:  # only the older namespace is installed
        from pytorch_lightning import Callback as LightningCallback
        from pytorch_lightning.loggers.logger import DummyLogger
        from pytorch_lightning.utilities.data import sized_len
        from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

__all__ = [
    "TRAINER_LINKS",
    "Callback",
    "DummyLogger",
    "count_as_started",
    "count_training_loaders",
    "join_namespaces",
    "keeping_buffers",
    "logs_at_this_step",
    "next_batch_index",
    "planned_steps",
    "quiet_trainer",
    "rank_info",
    "rank_zero_info",
    "rank_zero_warn",
    "sized_len",
    "starts_amid_epoch",
    "steps_so_far",
    "train_source",
    "trainer_of",
    "uncompiled",
]

TRAINER_LINKS = frozenset({"_trainer", "_fabric", "_hparams_initial"})
"""Attributes of a LightningModule that are the framework's and not its own."""


class Callback(LightningCallback):
    """Base of our callbacks, in whichever namespace they are used."""


def join_namespaces() -> None:
    """Make our callbacks callbacks of ``pytorch_lightning`` too, where that is imported.

    Its Trainer takes none but its own before release 2.6. It asks for what is attached by entry points before it looks
    at any callback, so those that were made before it was imported pass as well.
    """
    theirs = getattr(sys.modules.get("pytorch_lightning"), "Callback", None)
    if theirs is not None and not issubclass(Callback, theirs):
        Callback.__bases__ = (*Callback.__bases__, theirs)


join_namespaces()


def rank_info(message: str, rank: int) -> None:
    """Tell the user what concerns this rank alone."""
    rank_zero.log.info(message if rank == 0 else f"rank {rank}: {message}")


def logs_at_this_step(trainer: Any) -> bool:
    """Is this batch one that the loggers hear of? The same rule as Lightning's own metrics."""
    every = trainer.log_every_n_steps
    return bool(every) and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0


def count_training_loaders(trainer: Any) -> int:
    """Of how many loaders a training batch is put together."""
    return len(trainer.fit_loop._combined_loader.flattened)


def keeping_buffers(module: Any) -> AbstractContextManager[Any]:
    """Have a module that is compiled as a whole keep the buffers of its graph, which is going to be asked twice."""
    if getattr(module, "_compiler_ctx", None) is None:
        return nullcontext()
    return torch._functorch.config.patch(donated_buffer=False)


def uncompiled(module: Any) -> Any:
    """The module, which from now on takes itself for one that ``torch.compile`` never saw."""
    if hasattr(module, "_compiler_ctx"):
        module._compiler_ctx = None
    return module


def next_batch_index(trainer: Any) -> int:
    """The ``batch_idx`` that the batch now on its way to the training step will get."""
    return int(trainer.fit_loop.batch_idx) + 1 if trainer is not None else 0


@contextmanager
def quiet_trainer(trainer: Any, **kwargs: Any) -> Iterator[Any]:
    """A small Trainer on one device, of the same namespace and precision as ``trainer``, that says and writes nothing.

    A new Trainer takes this process for rank zero; the rank is put back when the small one has done its work.
    """
    kind = next(base for base in type(trainer).__mro__ if base.__name__ == "Trainer" and ".trainer." in base.__module__)
    device = trainer.strategy.root_device
    talker = rank_zero.log  # that of the namespace which was imported last, whatever namespace talks
    quiet, rank = talker.disabled, getattr(rank_zero.rank_zero_only, "rank", None)
    talker.disabled = True
    try:
        yield kind(
            accelerator="cpu" if device.type == "cpu" else "auto",
            devices=1 if device.type == "cpu" else [device.index or 0],
            precision=trainer.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            **kwargs,
        )
    finally:
        talker.disabled = quiet
        if rank is not None:
            vars(rank_zero.rank_zero_only)["rank"] = rank


def starts_amid_epoch(trainer: Any) -> bool:
    """Is the first batch of this fit one amid an epoch? To be asked when training starts, and only then."""
    loop = trainer.fit_loop.epoch_loop
    done = loop.batch_progress.current.processed  # one that was begun, and ended in an error, comes again
    return bool(loop.restarting) and 0 < done < trainer.num_training_batches


def steps_so_far(trainer: Any) -> int:
    """Steps of the training so far, in the unit of its length (`planned_steps`, ``estimated_stepping_batches``).

    Those are optimiser steps, but batches where a module optimises by hand and nothing but epochs bound the training:
    nobody knows how often its step steps how many optimizers, which is what ``trainer.global_step`` counts there.
    """
    if trainer.lightning_module.automatic_optimization or (trainer.max_steps is not None and trainer.max_steps >= 0):
        return int(trainer.global_step)
    # Restored with the loops, and one that was begun, and ended in an error, is not counted.
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)


def count_as_started(trainer: Any) -> None:
    """Have Lightning count a batch that is ``None``, and skipped, as begun; or else it comes again in a resumed run."""
    count = trainer.fit_loop.epoch_loop.batch_progress
    if count.current.started < count.current.ready:
        count.increment_started()


def train_source(trainer: Any) -> Any:
    """Where the Trainer asks for its training loader, an object with a method ``dataloader()``."""
    return getattr(trainer.fit_loop, "_data_source", None)


def trainer_of(module: Any) -> Any:
    """The Trainer that a module was last given to; asking the module itself is an error where there is none."""
    return vars(module).get("_trainer")


def planned_steps(trainer: Any, loader: Any) -> int | None:
    """Steps of the whole training with this loader, as far as that is known before training starts.

    ``trainer.estimated_stepping_batches`` says so too, but cannot be asked while the loader is being set up.
    """
    limits = [trainer.max_steps] if trainer.max_steps is not None and trainer.max_steps >= 0 else []
    batches = sized_len(loader)
    if batches is not None and trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        limits.append(math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs)
    return min(limits, default=None)
