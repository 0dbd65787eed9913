"""``task=fit``: train one model, and test it where there is something to test it on."""

from __future__ import annotations

import time
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from lightning_select.app.building import build_callbacks, build_data, build_model, build_trainer
from lightning_select.app.console import say
from lightning_select.callbacks.base import SelectionCallback

__all__ = ["defines", "fit", "has_test"]


def fit(config: DictConfig) -> None:
    """Train, test, and say in one line what came out."""
    seed_everything(config.seed, workers=True, verbose=False)
    data, model = build_data(config), build_model(config)
    callbacks = build_callbacks(config)
    trainer = build_trainer(config, callbacks)
    start = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=config.ckpt_path)
    seconds, metrics = time.perf_counter() - start, dict(trainer.callback_metrics)
    if has_test(model, data):
        trainer.test(model, datamodule=data, verbose=False)
        metrics |= trainer.callback_metrics
    if trainer.is_global_zero:
        ours = tuple(f"{callback.name}/" for callback in callbacks if isinstance(callback, SelectionCallback))
        told = {name: value for name, value in sorted(metrics.items()) if not name.startswith(ours)}
        values = ", ".join(f"{name} {float(value):.4g}" for name, value in told.items()) or "nothing logged"
        folder = HydraConfig.get().runtime.output_dir
        say(f"fit: {trainer.global_step} steps in {seconds:.1f} s; {values}; files in {folder}")


def has_test(model: Any, data: Any) -> bool:
    """Is there a test step, and data for it?"""
    return defines(model, "test_step") and any(defines(owner, "test_dataloader") for owner in (data, model))


def defines(owner: Any, name: str) -> bool:
    """Does the user's class define this, rather than Lightning (either namespace)?"""
    method = getattr(type(owner), name, None)
    return method is not None and not method.__module__.startswith(("lightning.pytorch.", "pytorch_lightning."))
