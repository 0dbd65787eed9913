"""Train reference models on the user's own data, so that no row is scored by a model that has seen it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from lightning_select.compat import Callback, quiet_trainer, rank_zero_info, uncompiled
from lightning_select.errors import ArgumentError, ReferenceModelError
from lightning_select.signals.scoring import StepRunner
from lightning_select.signals.traceless.generators import Generators
from lightning_select.types import Float

__all__ = ["Holdout", "detached_copy", "holdout_losses"]

_STEPS = ("forward", "training_step", "validation_step", "test_step", "predict_step")


@dataclass(frozen=True)
class Holdout:
    """Train two copies of the module on two halves of the training data; each half is scored by the other's model.

    The copies start from the weights that the module has when training starts, and are trained with its own
    optimiser. Of all epochs, the losses of the one with the lowest mean on the rows it was not trained on are kept.
    This happens once, before the first step, and takes about as long as ``epochs * share`` epochs of plain training.

    Args:
        epochs: How long to train each copy.
        share: Share of its half that each copy is trained on, in (0, 1].
        batch_size: Rows per step; ``None`` is the size of the training loader's batches.
        seed: Seed of the split and of the order of rows.

    Raises:
        ArgumentError: A value is out of range.

    References:
        Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt",
        ICML 2022, arXiv:2206.07137, section 3: irreducible losses from models trained on the other half of the data
        where no holdout set is available.
    """

    epochs: int = 3
    share: float = 1.0
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not _is_whole(self.epochs) or self.epochs < 1:
            raise ArgumentError(f"Holdout.epochs must be a whole number of at least 1, got {self.epochs!r}.")
        if not (_is_whole(self.share) or isinstance(self.share, float)) or not 0 < self.share <= 1:
            raise ArgumentError(f"Holdout.share must be in (0, 1], got {self.share!r}.")
        if self.batch_size is not None and (not _is_whole(self.batch_size) or self.batch_size < 1):
            raise ArgumentError(
                f"Holdout.batch_size must be a whole number of at least 1, or None, got {self.batch_size!r}."
            )
        if not _is_whole(self.seed):
            raise ArgumentError(f"Holdout.seed must be a whole number, got {self.seed!r}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def holdout_losses(holdout: Holdout, trainer: Any, module: Any) -> Float[Tensor, "dataset"]:
    """The loss of every row of the training dataset under a model that was not trained on it.

    Raises:
        ReferenceModelError: The training loader is not one DataLoader over a dataset with a length.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        raise ReferenceModelError(
            f"Holdout must find one DataLoader over a dataset with a length, got {type(loader).__name__}. "
            "Give a table of losses by row id instead."
        )
    rows = len(loader.dataset)  # type: ignore[arg-type]
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(holdout.seed)).tolist()
    halves = order[: rows // 2], order[rows // 2 :]
    table = torch.full((rows,), torch.nan)
    rank_zero_info(f"Holdout: training two reference models for {holdout.epochs} epochs each on {rows} rows.")
    with Generators().kept(trainer.strategy.root_device):
        for seen, unseen in (halves, halves[::-1]):
            torch.manual_seed(holdout.seed)
            chosen = seen[: max(1, round(holdout.share * len(seen)))]
            table[unseen] = _cross_losses(holdout, trainer, module, loader, chosen, unseen)
    return trainer.strategy.broadcast(table)


def detached_copy(module: Any) -> Any:
    """A deep copy that belongs to no Trainer and whose steps are those of its class, whoever wrapped the original's."""
    twin = copy.deepcopy(module)
    for name in _STEPS:
        vars(twin).pop(name, None)
    return uncompiled(twin)


def _cross_losses(
    holdout: Holdout, trainer: Any, module: Any, loader: DataLoader[Any], seen: Sequence[int], unseen: Sequence[int]
) -> Float[Tensor, "unseen"]:
    twin = detached_copy(module)
    sampler: Any = loader.batch_sampler
    size: Any = holdout.batch_size or loader.batch_size or getattr(sampler, "batch_size", 64)
    keeper = _BestLosses(_loader(loader, unseen, size))
    order = torch.Generator().manual_seed(holdout.seed)
    training = _loader(loader, seen, size, shuffle=True, generator=order, drop_last=len(seen) > size)
    with quiet_trainer(trainer, max_epochs=holdout.epochs, callbacks=[keeper]) as small:
        if trainer.datamodule is None:
            small.fit(twin, training)
        else:
            small.fit(twin, datamodule=_with_loader(trainer.datamodule, training))
    if keeper.best is None:
        raise ReferenceModelError("Holdout must train for at least one epoch, got none: the fit ended before it began.")
    return keeper.best


class _BestLosses(Callback):
    """After every epoch, the losses of the rows of a loader; keeps those of the best epoch."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.best: Float[Tensor, "rows"] | None = None
        self._loader = loader

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, and keep if better than before."""
        runner = StepRunner(pl_module, trainer, pl_module.training_step)
        losses = torch.cat(
            [
                runner.measure(trainer.strategy.batch_to_device(batch), {"loss"}).need("loss", "Holdout").cpu()
                for batch in self._loader
            ]
        )
        rows = len(self._loader.dataset)  # type: ignore[arg-type]
        if len(losses) != rows:
            raise ReferenceModelError(
                f"Holdout must see one loss per row, got {len(losses)} for {rows} rows: "
                "the collate function adds or drops rows."
            )
        if self.best is None or losses.nanmean() < self.best.nanmean():
            self.best = losses


def _loader(loader: DataLoader[Any], rows: Sequence[int], size: int, **kwargs: Any) -> DataLoader[Any]:
    """A loader like the user's over some of its rows."""
    return DataLoader(
        Subset(loader.dataset, rows),
        batch_size=size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        **kwargs,
    )


def _with_loader(datamodule: Any, loader: DataLoader[Any]) -> Any:
    """The user's data module, whose batch hooks must run, with another training loader and nothing to set up."""
    twin = copy.copy(datamodule)
    idle = dict.fromkeys(("prepare_data", "setup", "teardown"), lambda *_, **__: None)
    vars(twin).update(idle, train_dataloader=lambda: loader)
    return twin
