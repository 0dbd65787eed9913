"""From configs to objects: the only place of the application that instantiates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from lightning_select.app.hydra_versions import TRUST
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.errors import ConfigurationError, SelectionError

__all__ = [
    "OtherLightningError",
    "build_callbacks",
    "build_data",
    "build_model",
    "build_trainer",
    "check_sampler",
    "instantiate",
    "is_import_failure",
]


class OtherLightningError(ConfigurationError):
    """The module and the Trainer come from different packages of Lightning."""


def instantiate(config: Any, **kwargs: Any) -> Any:
    """The object that a config with a ``_target_`` describes, with plain lists and dicts for arguments.

    Raises:
        SelectionError: As the class raised it; Hydra would put it into one of its own.
    """
    try:
        return hydra.utils.instantiate(config, _convert_="all", **TRUST, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, SelectionError):
            raise error.__cause__ from error
        raise


def build_model(config: DictConfig) -> Any:
    """The LightningModule.

    Raises:
        ConfigurationError: The config names no class.
        OtherLightningError: The module is one of ``pytorch_lightning``, and the Trainer is not.
    """
    _check_target("model", config.get("model"), "model._target_=my.Module")
    model = instantiate(config.model)
    trainer = str(OmegaConf.select(config, "trainer._target_"))
    roots = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "pytorch_lightning" in roots and "lightning" not in roots and trainer.startswith("lightning."):
        raise OtherLightningError(
            f"trainer._target_ must come from the package of the module, pytorch_lightning, got {trainer}. Set "
            "trainer._target_=pytorch_lightning.Trainer"
        )
    return model


def build_data(config: DictConfig) -> Any:
    """The data module, or ``None`` where the module brings its own loaders.

    Raises:
        ConfigurationError: The config names no class, or a sampler that the data do not take.
    """
    chosen = check_sampler(config)
    data = config.get("data") or {}
    if not data:
        return None
    _check_target("data", data, "data._target_=my.DataModule")
    return instantiate(data) if chosen or "sampler" not in data else instantiate(data, sampler=None)


def check_sampler(config: DictConfig, method: str = "") -> bool:
    """Is a sampler chosen, and can it be made?

    Args:
        config: The whole config.
        method: Who chose it, to be told.

    Raises:
        ConfigurationError: The data take no sampler, or it lacks an argument.
    """
    if not OmegaConf.select(config, "sampler._target_"):
        return False
    by = f" (method {method})" if method else ""
    if "sampler" not in (config.get("data") or {}):
        raise ConfigurationError(
            f"sampler must be taken by the data, got data without a `sampler`{by}. If your data module has such an "
            "argument (it is called with the training dataset): +data.sampler='${sampler}'"
        )
    missing = sorted(OmegaConf.missing_keys(config.sampler))
    if missing:
        raise ConfigurationError(
            f"{missing[0]} must be given, one value per row of the dataset, got none{by}. Data of your own may "
            "make the sampler in train_dataloader instead of taking it from the config."
        )
    return True


def build_callbacks(config: DictConfig) -> list[Any]:
    """The callbacks, in the order of the config, and what a sampler needs; a name that holds nothing is left out.

    Raises:
        ConfigurationError: An entry names no class.
    """
    named = {name: entry for name, entry in (config.get("callbacks") or {}).items() if entry}
    for name, entry in named.items():
        _check_target(f"callbacks.{name}", entry, f"+callbacks.{name}._target_=my.Callback")
    feedback = [SamplerFeedback()] if OmegaConf.select(config, "sampler._target_") else []
    return [*(instantiate(entry) for entry in named.values()), *feedback]


def build_trainer(config: DictConfig, callbacks: Sequence[Any], changes: Mapping[str, Any] | None = None) -> Any:
    """The Trainer.

    Args:
        config: The whole config.
        callbacks: Its callbacks.
        changes: Arguments that replace those of the config.

    Raises:
        ConfigurationError: The config names no class, or callbacks of its own.
    """
    _check_target("trainer", config.get("trainer"), "trainer=default")
    if "callbacks" in config.trainer:
        raise ConfigurationError("trainer.callbacks must not be set. Put them under `callbacks`, each with a name.")
    # A partial object, because Hydra would copy callbacks that it is handed.
    return instantiate(config.trainer, _partial_=True)(callbacks=list(callbacks), **(changes or {}))


def is_import_failure(error: Exception) -> bool:
    """Did Hydra not find a class, or fail to import its module?"""
    return isinstance(error, InstantiationException) and "Error locating target" in str(error)


def _check_target(key: str, config: Any, example: str) -> None:
    if isinstance(config, DictConfig) and "_target_" in config and not OmegaConf.is_missing(config, "_target_"):
        return
    got = [name for name in config if name != "_target_"] if isinstance(config, DictConfig) else config
    raise ConfigurationError(f"{key} must have a _target_, the class to build, got {got or 'none'}. Try {example}")
