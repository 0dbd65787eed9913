"""How many rows a batch of the user's data has, so that a comparison can draw larger ones for methods that drop rows.

The size stands in the config, or else it is the default of the argument of the user's own data class.
"""

from __future__ import annotations

import inspect
from typing import Any

import hydra.utils
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_select.errors import ConfigurationError

__all__ = ["batch_size_of", "settle_batch_size"]

_SETTING = "compare.batch_size_key"
_USUAL = "data.batch_size"
"""What the application's config holds; the data of others need not have it."""

_EMPTY = inspect.Parameter.empty


def settle_batch_size(config: DictConfig) -> tuple[str | None, str]:
    """The key of the batch size, if it can be used, and a notice where it cannot and nobody asked for it.

    Args:
        config: The config of uniform.

    Raises:
        ConfigurationError: The user's own key, or an argument that the data class needs, has no value.
    """
    key = config.compare.batch_size_key
    if key is None:
        return None, ""
    if not isinstance(key, str):
        raise ConfigurationError(f"{_SETTING} must be null or a key of the config, got {key!r}.")
    overrides = HydraConfig.get().overrides.task
    asked = key != _USUAL or any(override.lstrip("+").startswith(f"{_SETTING}=") for override in overrides)
    if asked or _stands_in(config, key) or _default(config, key) is _EMPTY or _find(config, key) is not None:
        batch_size_of(config, key)
        return key, ""
    data = (config.get("data") or {}).get("_target_")
    lack = f"{data} has no argument batch_size with a default" if data else "there is no data module"
    example = "data.rows" if data else "model.batch_size"
    return None, (
        f"Notice: {lack}, so all methods draw the same batches, and those that keep a share of them learn from fewer "
        f"rows per step (column rows/step). If another argument is the size, name it: {_SETTING}={example}"
    )


def batch_size_of(config: DictConfig, key: str) -> int:
    """The size that ``key`` names, in the config or as the default of an argument of the data class.

    Raises:
        ConfigurationError: There is no whole number.
    """
    size = _find(config, key)
    if size is None:
        raise ConfigurationError(
            f"{_SETTING} must name a whole number of the config, got {key!r}, which is "
            f"{OmegaConf.select(config, key)!r}. Give it a value, with the plus where the key is new: +{key}=32. "
            f"With {_SETTING}=null all methods draw the same batches."
        )
    return size


def _find(config: DictConfig, key: str) -> int | None:
    value = OmegaConf.select(config, key) if _stands_in(config, key) else _default(config, key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _stands_in(config: DictConfig, key: str) -> bool:
    """Is there such a key, with or without a value?"""
    above, _, name = key.rpartition(".")
    place = OmegaConf.select(config, above) if above else config
    return isinstance(place, DictConfig) and name in list(place)


def _default(config: DictConfig, key: str) -> Any:
    """The default of the data class's argument of that name, ``None`` where it has none such, empty where it asks."""
    above, _, name = key.rpartition(".")
    target = (config.get("data") or {}).get("_target_") if above == "data" else None
    if target is None:
        return None
    try:
        parameter = inspect.signature(hydra.utils.get_method(target)).parameters.get(name)
    except (ImportError, TypeError, ValueError):  # building it says what is wrong, in Hydra's words
        return None
    return None if parameter is None else parameter.default
