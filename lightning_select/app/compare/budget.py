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
from lightning_select.app.compare.loaders import batches_of
from lightning_select.app.fit import defines
from lightning_select.errors import ConfigurationError, SelectionError

__all__ = ["ManualStepsError", "budget_in_steps", "check_steps"]


class ManualStepsError(ConfigurationError):
    """Epochs were turned into steps, and the module optimises by hand."""


def budget_in_steps(config: DictConfig) -> dict[str, Any]:
    """Arguments of the Trainer that replace those of ``config``; none where it counts in steps already.

    Raises:
        ConfigurationError: The length of an epoch cannot be known, or nothing would be trained.
    """
    trainer = config.trainer
    epochs, steps = _length_of(trainer)
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
    epochs, _ = _length_of(config.trainer)
    if budget and epochs > 0 and not getattr(model, "automatic_optimization", True):
        steps = budget["max_steps"]
        raise ManualStepsError(
            "trainer.max_steps must say how long a module trains that optimises by hand, because the Trainer counts "
            f"every step of each of its optimisers, got max_epochs={epochs}, which comes to {steps} steps of one of "
            f"them. Set trainer.max_epochs=-1 trainer.max_steps=..., with two that step in each batch {2 * steps}."
        )


def _length_of(trainer: DictConfig) -> tuple[int, int]:
    """Epochs and steps to train, as the Trainer reads them: -1 where they do not end the training.

    Raises:
        ConfigurationError: One of them is 0.
    """
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    for name, value in (("max_epochs", epochs), ("max_steps", steps)):
        if value == 0:
            raise ConfigurationError(
                f"trainer.{name} must be above 0 where methods are compared, or -1 for no such end, got 0, which "
                "trains nothing. Say how long to train: trainer.max_epochs=... or trainer.max_steps=..."
            )
    if epochs is None:
        epochs = -1 if steps > 0 else 1000
    return epochs, steps


def _limited(batches: int, trainer: DictConfig) -> int:
    """Batches of an epoch that the Trainer takes, of so many; ``overfit_batches`` stands above the limit.

    Raises:
        ConfigurationError: There is none.
    """
    name = "overfit_batches" if trainer.get("overfit_batches") else "limit_train_batches"
    limit = trainer.get(name)
    if limit is None:
        return batches
    share = isinstance(limit, float) and limit <= 1
    taken = min(batches, int(batches * limit if share else limit))
    if taken < 1:
        raise ConfigurationError(
            f"trainer.{name} must leave a batch to train on where methods are compared, got {limit!r} of the {batches} "
            f"batches of an epoch. Give a larger one, or leave it out: ~trainer.{name}"
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
