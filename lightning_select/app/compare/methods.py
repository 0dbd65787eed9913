"""What a comparison compares: every method is the user's own config plus a few overrides."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_select.app.compare.batch_size import batch_size_of
from lightning_select.errors import ConfigurationError

__all__ = [
    "GROUP",
    "ROLLOUTS",
    "SAMPLER",
    "UNIFORM",
    "Method",
    "compose_method",
    "leaves",
    "list_recipes",
    "read_methods",
]

GROUP = "callbacks/selection"
SAMPLER = "sampler"
ROLLOUTS = "rollouts"
UNIFORM = "uniform"
NONE = "none"
"""The option that stands for no callback."""


@dataclass(frozen=True)
class Method:
    """A name for the table, and the overrides that make the method out of the user's config."""

    name: str
    overrides: tuple[str, ...]


def list_recipes(group: str = GROUP) -> list[str]:
    """Names of all recipes, or samplers, that this application finds, the user's own among them."""
    loader = GlobalHydra.instance().config_loader()
    return sorted(set(loader.get_group_options(group, results_filter=ObjectType.CONFIG)) - {NONE})


def read_methods(
    entries: Any, recipes: Sequence[str], samplers: Sequence[str] = (), rollouts: Sequence[str] = ()
) -> list[Method]:
    """The methods that ``methods=[...]`` names.

    Args:
        entries: ``uniform``, names of recipes, or a name of one's own with overrides, as ``{name: {key: value}}`` or
            ``{name: [override, ...]}``. The overrides say which recipe is meant (``callbacks/selection: uds``, or
            ``rollouts: balanced``) or which sampler (``sampler: vade``), unless the name is that of one. A single name
            needs no list.
        recipes: Names that exist; a recipe comes before a sampler of the same name.
        samplers: Names of samplers that exist.
        rollouts: Names of recipes for training on rewards.

    Raises:
        ConfigurationError: A name is unknown or occurs twice, or an entry is of another form.
    """
    entries = entries if isinstance(entries, list) else [entries]
    groups = {GROUP: recipes, SAMPLER: samplers, ROLLOUTS: rollouts}
    methods = [_read(entry, groups) for entry in entries]
    twice = [name for name, times in Counter(method.name for method in methods).items() if times > 1]
    if twice or not methods:
        raise ConfigurationError(f"methods must be at least one, each with a name of its own, got {entries}.")
    return methods


def compose_method(method: Method, seed: int, batch_size_key: str | None) -> DictConfig:
    """The user's config with one method and one seed.

    Where ``batch_size_key`` is given, the loader's batches are enlarged by the share that the method keeps, so that
    every training step, of reference models too, sees as many rows as the config asks for.

    Raises:
        ConfigurationError: The command line already chooses a method, or ``batch_size_key`` names no whole number.
    """
    state = HydraConfig.get()
    # As they were typed: an interpolation (${seed}) means something in each method's own config.
    overrides: list[str] = OmegaConf.to_container(state.overrides.task, resolve=False)  # type: ignore[assignment]
    if any(_key(override) == GROUP for override in overrides):
        raise ConfigurationError(f"{GROUP} must not be set with task=compare, which sets it to each of `methods`.")
    replaced = {_key(override) for override in method.overrides} | {"seed"}
    # A key that the command line had to add (+model.width=64) is as new to the method that sets it.
    added = {_key(override) for override in overrides if override.startswith("+") and "/" not in _key(override)}
    own = [f"++{one}" if _key(one) in added and one[0] not in "+~" else one for one in method.overrides]
    overrides = [override for override in overrides if _key(override) not in replaced]
    config = compose(state.job.config_name, overrides=[*overrides, f"seed={seed}", *own])
    if batch_size_key is not None:
        size = batch_size_of(config, batch_size_key)
        with open_dict(config):
            OmegaConf.update(config, batch_size_key, round(size / _kept_share(config)))
            for callback in (config.get("callbacks") or {}).values():
                reference = OmegaConf.select(callback, "score.reference") if callback else None
                if isinstance(reference, DictConfig) and reference.get("batch_size", size) is None:
                    reference.batch_size = size
    return config


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a config that is plain dicts by now, below ``path``; an empty dict is a value."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(f"{path}.{key}" if path else str(key), part)
    else:
        yield path, value


def _read(entry: Any, groups: Mapping[str, Sequence[str]]) -> Method:
    if isinstance(entry, str):
        return Method(entry, _choose(entry, groups))
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, changes),) = entry.items()
        # Values in JSON are values in Hydra's grammar too, strings in quotes included.
        overrides = (
            [f"{key}={json.dumps(changes[key])}" for key in changes] if isinstance(changes, Mapping) else changes
        )
        if isinstance(overrides, list) and all(isinstance(override, str) for override in overrides):
            keys = {_key(override) for override in overrides}
            if GROUP in keys:
                return Method(str(name), tuple(overrides))
            first = (f"{GROUP}={NONE}",) if keys & {SAMPLER, ROLLOUTS} else _choose(str(name), groups)
            return Method(str(name), (*first, *overrides))
    raise ConfigurationError(f"methods must hold names and {{name: {{key: value}}}}, got {entry!r}.")


def _choose(name: str, groups: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if name == UNIFORM:
        return (f"{GROUP}={NONE}",)
    found = next((group for group, names in groups.items() if name in names), None)
    if found is None:
        raise ConfigurationError(
            f"methods must name {UNIFORM}, one of the recipes {', '.join([*groups[GROUP], *groups[ROLLOUTS]])} "
            f"or one of the samplers {', '.join(groups[SAMPLER])}, got {name!r}. "
            f"A name of your own comes with the recipe it stands for: {{{name}: {{{GROUP}: uds}}}}"
        )
    return (f"{GROUP}={name}",) if found == GROUP else (f"{GROUP}={NONE}", f"{found}={name}")


def _kept_share(config: DictConfig) -> float:
    """Share of a batch that passes all selections whose ``keep`` is a constant share."""
    share = 1.0
    for entry in (config.get("callbacks") or {}).values():
        keep = entry.get("keep") if isinstance(entry, DictConfig) else None
        if isinstance(keep, float) and str(entry.get("_target_")).endswith(".BatchSelection") and 0 < keep <= 1:
            share *= keep
    return share


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
