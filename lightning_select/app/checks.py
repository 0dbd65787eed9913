"""Values of the config that would fail somewhere inside torch, Lightning or a table, checked before anything starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_select.errors import ConfigurationError

__all__ = ["check_settings", "digits_notice", "is_seed"]

_WHOLE = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "check_val_every_n_epoch"),
    *("accumulate_grad_batches", "num_sanity_val_steps", "log_every_n_steps"),
)
_NUMBERS = ("val_check_interval", "limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")
_NEVER_NULL = ("max_steps", "accumulate_grad_batches", "overfit_batches")
"""What the Trainer computes with as it is; of the others, null is the default."""

_KEPT_BY_LIGHTNING = ("best", "last", "hpc")
"""Words that stand for a checkpoint that the Trainer looks up itself."""

_SEEDS = 2**32
_DIGITS = "lightning_select.app.data.digits.Digits"


def check_settings(config: DictConfig) -> None:
    """Refuse values of a wrong kind.

    Raises:
        ConfigurationError: A value breaks its rule.
    """
    _check("seed", config.seed, is_seed(config.seed), f"a whole number in [0, {_SEEDS})")
    threads = config.threads
    _check(
        "threads", threads, threads is None or (_is_whole(threads) and threads > 0), "null or a whole number above 0"
    )
    _check_checkpoint(config.ckpt_path)
    trainer = config.get("trainer")
    if isinstance(trainer, DictConfig):
        for name in _WHOLE:
            _check_number(trainer, name, _is_whole(trainer.get(name)), "a whole number")
        accumulated = trainer.get("accumulate_grad_batches", 1)
        _check("trainer.accumulate_grad_batches", accumulated, accumulated > 0, "a whole number above 0")
        for name in _NUMBERS:
            value = trainer.get(name)
            timed = name == "val_check_interval" and (not isinstance(value, str) or ":" in value)  # days:hours:...
            _check_number(trainer, name, _is_number(value) or timed, "a number")
    _check_comparison(config.compare)


def _check_number(trainer: DictConfig, name: str, fits: bool, rule: str) -> None:
    value, needed = trainer.get(name), name in _NEVER_NULL
    absent = value is None and (not needed or name not in trainer)
    _check(f"trainer.{name}", value, absent or fits, rule if needed else f"null or {rule}")


def _check_comparison(settings: DictConfig) -> None:
    target, final_metric = settings.target, settings.final_metric
    reachable = target is None or (_is_number(target) and math.isfinite(target))
    _check("compare.target", target, reachable, "null or a number")
    _check("compare.mode", settings.mode, settings.mode in ("max", "min"), "max or min")
    final_mode = settings.final_mode
    _check("compare.final_mode", final_mode, final_mode in (None, "max", "min"), "null, max or min")
    reports = settings.reports
    _check("compare.reports", reports, _is_whole(reports) and reports >= 0, "a number of seeds, 0 or more")
    for name in ("equal_cost", "stop_worse"):
        _check(f"compare.{name}", settings[name], isinstance(settings[name], bool), "true or false")
    _check("compare.metric", settings.metric, isinstance(settings.metric, str), "the name of a metric")
    named = final_metric is None or isinstance(final_metric, str)
    _check("compare.final_metric", final_metric, named, "null or the name of a metric")


def is_seed(value: Any) -> bool:
    """Does every generator take this for a seed?"""
    return _is_whole(value) and 0 <= value < _SEEDS


def digits_notice(config: DictConfig) -> str:
    """What to tell someone whose own module is trained on data that nobody asked for; empty where that is not so."""
    chosen = {override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task}
    asked = any(key in ("data", "experiment") or key.startswith("data.") for key in chosen)
    model, data = (config.get(name) for name in ("model", "data"))
    if asked or not (isinstance(model, DictConfig) and isinstance(data, DictConfig)):
        return ""
    target = str(model.get("_target_"))
    if data.get("_target_") != _DIGITS or target.startswith("lightning_select."):
        return ""
    return (
        f"{target} is trained on the bundled digits, batches of {{'x', 'y', 'flipped'}}, because data is not set. Data "
        "of your own: data._target_=my.DataModule; a module with loaders of its own: data=none"
    )


def _check_checkpoint(path: Any) -> None:
    if path is None or path in _KEPT_BY_LIGHTNING:
        return
    known = isinstance(path, str) and ("://" in path or path.startswith("registry") or Path(path).exists())
    _check("ckpt_path", path, known, "null or a checkpoint that exists")


def _check(key: str, value: Any, kept: bool, rule: str) -> None:
    if not kept:
        raise ConfigurationError(f"{key} must be {rule}, got {value!r}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)
