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
        ConfigurationError: The length of an epoch cannot be known.
    """
    trainer = config.trainer
    epochs, steps, every = trainer.get("max_epochs"), trainer.get("max_steps", -1), trainer.get("val_check_interval")
    by_epoch = trainer.get("check_val_every_n_epoch", 1)
    if steps > 0 and epochs in (None, -1) and by_epoch is None:
        return {}
    batches = _batches_of_epoch(config)
    if epochs is None or epochs > 0:
        whole = math.ceil(batches / trainer.get("accumulate_grad_batches", 1)) * (1000 if epochs is None else epochs)
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
    epochs = config.trainer.get("max_epochs")
    if budget and epochs != -1 and not getattr(model, "automatic_optimization", True):
        steps = budget["max_steps"]
        raise ManualStepsError(
            "trainer.max_steps must say how long a module trains that optimises by hand, because the Trainer counts "
            f"every step of each of its optimisers, got max_epochs={epochs}, which comes to {steps} steps of one of "
            f"them. Set trainer.max_epochs=-1 trainer.max_steps=..., with two that step in each batch {2 * steps}."
        )


def _batches_of_epoch(config: DictConfig) -> int:
    """Batches of the training loaders that ``config`` describes; the module is made where it makes them."""
    data = build_data(config)
    owner = data if defines(data, "train_dataloader") else build_model(config)
    try:
        if data is not None:
            data.prepare_data()
            data.setup("fit")
        batches = batches_of(owner.train_dataloader())
    except SelectionError:
        raise
    except Exception as error:  # whatever a loader without a length or a hook of the user raises
        raise ConfigurationError(
            "task=compare must know how long an epoch is, or be told in steps: trainer.max_epochs=-1 "
            f"trainer.max_steps=... trainer.val_check_interval=... trainer.check_val_every_n_epoch=null. Got {error!r}."
        ) from error
    limit = config.trainer.get("limit_train_batches", 1.0)
    return min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
