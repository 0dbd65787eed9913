"""As many steps, evaluated at the same steps, for every method of a comparison.

A method that keeps a tenth of its batches draws ten times as many rows, so an epoch of its loader is a tenth as many
steps. What a config says in epochs is therefore turned into steps, those of the loader that uniform trains from.

All are compared at equal steps, and at equal cost. A sampler that shortens its epochs, as InfoBatch does, therefore
goes through more of them rather than ending early: what it saves shows in its curve, not in a shorter run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from lightning_select.app.building import build_data, build_model
from lightning_select.app.compare.batch_size import batch_size_of
from lightning_select.app.compare.fairness import stops_early
from lightning_select.app.compare.loaders import batches_of
from lightning_select.app.fit import defines
from lightning_select.errors import ConfigurationError, SelectionError

__all__ = ["ManualStepsError", "budget_in_steps", "check_lengths", "check_steps"]


class ManualStepsError(ConfigurationError):
    """Epochs were turned into steps, and the module optimises by hand."""


def check_lengths(uniform: DictConfig, methods: Mapping[str, DictConfig], size_key: str | None) -> None:
    """Refuse a training without an end, and limits by which methods would train on other parts of the data.

    Args:
        uniform: The config of uniform.
        methods: The configs of the methods by name.
        size_key: Key of the batch size, where methods load batches of their own size.

    Raises:
        ConfigurationError: There is such a limit, or no end.
    """
    _length_of(uniform)
    trainer = uniform.trainer
    if overfit := trainer.get("overfit_batches"):
        raise ConfigurationError(
            "trainer.overfit_batches must be 0 where methods are compared, because Lightning would replace their "
            f"loaders, got {overfit!r}. Take a share of the data, trainer.limit_train_batches=0.5, or train one method "
            "with task=fit."
        )
    limit = trainer.get("limit_train_batches")
    if size_key is None or limit is None or _is_share(limit):
        return
    size = batch_size_of(uniform, size_key)
    for name, method in methods.items():
        if (own := batch_size_of(method, size_key)) != size:
            raise ConfigurationError(
                f"trainer.limit_train_batches must be a share where batches differ in size, got {limit!r} batches, of "
                f"{size} rows for uniform and of {own} for {name}. Take trainer.limit_train_batches=0.5, or batches "
                "that are all alike: compare.batch_size_key=null"
            )


def budget_in_steps(config: DictConfig) -> dict[str, Any]:
    """Arguments of the Trainer that replace those of ``config``; none where it counts in steps already.

    Raises:
        ConfigurationError: The length of an epoch cannot be known, or nothing would be trained.
    """
    trainer = config.trainer
    epochs, steps = _length_of(config)
    every, by_epoch = trainer.get("val_check_interval"), trainer.get("check_val_every_n_epoch", 1)
    if steps > 0 and epochs == -1 and by_epoch is None:
        return {}
    batches = _limited(_batches_of_epoch(config), trainer)
    if epochs > 0:
        whole = math.ceil(batches / trainer.get("accumulate_grad_batches", 1)) * epochs
        steps = whole if steps < 1 else min(steps, whole)
    if by_epoch is not None and not isinstance(every, str):  # days:hours:minutes:seconds stay what they are
        share = 1.0 if every is None else every
        every = batches * by_epoch if share == 1.0 and isinstance(share, float) else share
        every = every if isinstance(every, int) else max(1, int(batches * every))
    return {"max_epochs": -1, "max_steps": steps, "val_check_interval": every, "check_val_every_n_epoch": None}


def check_steps(config: DictConfig, budget: Mapping[str, Any], model: Any) -> None:
    """Refuse steps that were epochs for a module that optimises by hand.

    It is told when the first run has made its module, because a large one takes long to load.

    Args:
        config: The config of the run.
        budget: What `budget_in_steps` made of it.
        model: The module of the run.

    Raises:
        ManualStepsError: The Trainer would not count the steps as they were counted here.
    """
    epochs, _ = _length_of(config)
    if budget and epochs > 0 and not getattr(model, "automatic_optimization", True):
        steps = budget["max_steps"]
        raise ManualStepsError(
            "trainer.max_steps must say how long a module trains that optimises by hand, because the Trainer counts "
            f"every step of each of its optimisers, got max_epochs={epochs}, which comes to {steps} steps of one of "
            f"them. Set trainer.max_epochs=-1 trainer.max_steps=..., with two that step in each batch {2 * steps}."
        )


def _length_of(config: DictConfig) -> tuple[int, int]:
    """Epochs and steps to train, as the Trainer reads them: -1 where they do not end the training.

    Raises:
        ConfigurationError: One of them is no length, or the training would not end.
    """
    trainer = config.trainer
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    for name, value in (("max_epochs", epochs), ("max_steps", steps)):
        if value is not None and (value == 0 or value < -1):
            raise ConfigurationError(
                f"trainer.{name} must be above 0 where methods are compared, or -1 where the other one ends the "
                f"training, got {value}{', which trains nothing' if value == 0 else ''}. Say how long to train: "
                "trainer.max_epochs=... or trainer.max_steps=..."
            )
    ends = trainer.get("max_time") or trainer.get("fast_dev_run") or stops_early(config)
    if epochs == steps == -1 and not ends:
        raise ConfigurationError(
            "trainer.max_epochs or trainer.max_steps must end the training where methods are compared, got -1 for "
            "both. Say how long to train: trainer.max_epochs=... or trainer.max_steps=..."
        )
    if epochs is None:
        epochs = -1 if steps > 0 else 1000
    return epochs, steps


def _is_share(limit: float) -> bool:
    return isinstance(limit, float) and limit <= 1


def _limited(batches: int, trainer: DictConfig) -> int:
    """Batches of an epoch that the Trainer takes, of so many.

    Raises:
        ConfigurationError: There is none.
    """
    limit = trainer.get("limit_train_batches")
    if limit is None:
        return batches
    taken = min(batches, int(batches * limit if _is_share(limit) else limit))
    if taken < 1:
        raise ConfigurationError(
            "trainer.limit_train_batches must leave a batch to train on where methods are compared, got "
            f"{limit!r} of the {batches} batches of an epoch. Give a larger one, or leave it out: "
            "~trainer.limit_train_batches"
        )
    return taken


def _batches_of_epoch(config: DictConfig) -> int:
    """Batches of the training loaders that ``config`` describes; the module is made where it makes them."""
    data = build_data(config)
    owner = data if defines(data, "train_dataloader") else build_model(config)
    try:
        if data is not None:
            data.prepare_data()
            data.setup("fit")
        return batches_of(owner.train_dataloader())
    except SelectionError:
        raise
    except Exception as error:  # whatever a loader without a length or a hook of the user raises
        raise ConfigurationError(
            "task=compare must know how long an epoch is, or be told in steps: trainer.max_epochs=-1 "
            f"trainer.max_steps=... trainer.val_check_interval=... trainer.check_val_every_n_epoch=null. Got {error!r}."
        ) from error
