"""As many steps, evaluated at the same steps, for every method of a comparison.

A method that keeps a tenth of its batches draws ten times as many rows, so an epoch of its loader is a tenth as many
steps. What a config says in epochs is therefore turned into steps, those of the loader that uniform trains from.

All are compared at equal steps, and at equal cost. A sampler that shortens its epochs, as InfoBatch does, therefore
goes through more of them rather than ending early: what it saves shows in its curve, not in a shorter run.
"""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig

from lightning_select.app.building import build_data, build_model
from lightning_select.app.compare.loaders import batches_of, train_owner
from lightning_select.errors import ConfigurationError

__all__ = ["budget_in_steps"]


def budget_in_steps(config: DictConfig) -> dict[str, Any]:
    """Arguments of the Trainer that replace those of ``config``; none where it counts in steps already.

    Raises:
        ConfigurationError: The length of an epoch cannot be known, or is not what the Trainer counts.
    """
    trainer = config.trainer
    epochs, steps, every = trainer.get("max_epochs"), trainer.get("max_steps", -1), trainer.get("val_check_interval")
    by_epoch = trainer.get("check_val_every_n_epoch", 1)
    if steps > 0 and epochs in (None, -1) and by_epoch is None:
        return {}
    batches, by_hand = _epoch_of(config)
    if by_hand and (epochs is None or epochs > 0):
        raise ConfigurationError(
            "trainer.max_steps must say how long a module trains that optimises by hand, because the Trainer counts "
            f"every step of each of its optimisers, got epochs, each of {batches} batches. Set trainer.max_epochs=-1 "
            f"trainer.max_steps=..., with two optimisers that step in each batch {2 * batches} for an epoch."
        )
    if epochs is None or epochs > 0:
        whole = math.ceil(batches / trainer.get("accumulate_grad_batches", 1)) * (1000 if epochs is None else epochs)
        steps = whole if steps < 1 else min(steps, whole)
    if by_epoch is not None and not isinstance(every, str):  # days:hours:minutes:seconds stay what they are
        share = 1.0 if every is None else every
        every = batches * by_epoch if share == 1.0 and isinstance(share, float) else share
        every = every if isinstance(every, int) else max(1, int(batches * every))
    return {"max_epochs": -1, "max_steps": steps, "val_check_interval": every, "check_val_every_n_epoch": None}


def _epoch_of(config: DictConfig) -> tuple[int, bool]:
    """Batches of the training loaders that ``config`` describes, and does the module optimise by hand?"""
    try:
        data = build_data(config)
        if data is not None:
            data.prepare_data()
            data.setup("fit")
        model = build_model(config)
        batches = batches_of(train_owner(data, model).train_dataloader())
    except Exception as error:  # whatever a loader without a length or a hook of the user raises
        raise ConfigurationError(
            "task=compare must know how long an epoch is, or be told in steps: trainer.max_epochs=-1 "
            f"trainer.max_steps=... trainer.val_check_interval=... trainer.check_val_every_n_epoch=null. Got {error!r}."
        ) from error
    limit = config.trainer.get("limit_train_batches", 1.0)
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    return batches, not getattr(model, "automatic_optimization", True)
