"""Configs of samplers, read as Hydra composes them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from lightning_select.samplers.base import OnlineSampler

__all__ = ["build", "check_defaults", "preset", "untyped"]

FOLDER = Path(__file__).parents[2] / "configs" / "sampler"


def preset(name: str) -> dict[str, Any]:
    """Everything that the config says."""
    own: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    whole: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        whole |= {} if base == "_self_" else preset(base)
    return whole | own


def build(name: str, dataset: Any, *data: Any, **changes: Any) -> OnlineSampler:
    """The sampler of a config, on these rows; ``data`` takes the places of what the config leaves open."""
    config = preset(name)
    left_open = [key for key, value in config.items() if value == "???"]
    return instantiate(config | dict(zip(left_open, data, strict=True)) | changes, _convert_="none")(dataset)


def untyped(sampler: Any, *args: Any, **settings: Any) -> OnlineSampler:
    """A sampler of arguments whose types nobody checks, as they come from a config; also where tests check types."""
    made = sampler.__new__(sampler)
    inspect.unwrap(sampler.__init__)(made, *args, **settings)
    return made


def check_defaults(name: str, needed: Sequence[str] = ()) -> None:
    """Does the config list every argument, at its default or left open?"""
    config = preset(name)
    parameters = dict(inspect.signature(get_class(config["_target_"])).parameters)
    assert config["_partial_"] is True
    assert set(config) == {"_target_", "_partial_", *parameters} - {"dataset"}
    for key, parameter in parameters.items():
        if key in needed:
            assert config[key] == "???"
        elif key != "dataset":
            default = parameter.default
            assert config[key] == (list(default) if isinstance(default, tuple) else default), key
