"""What exists, for overrides that name something that does not; Hydra itself only lists the options of a group."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_select.app.config_path import PRIMARY, app_folder, shared_folder
from lightning_select.app.hydra_versions import BASE

__all__ = ["config_dirs", "explain", "missing_groups"]


def explain(arguments: Sequence[str]) -> str:
    """One paragraph for every override that names no group and no key; empty where there is none.

    Args:
        arguments: The command line.
    """
    groups, keys = _list_groups(arguments), _keys(arguments)
    config = _compose([override for override, key in keys.items() if key in groups])
    paragraphs = missing_groups(arguments)
    for override, key in keys.items():
        if config is not None and key not in groups and "/" not in key and not override.startswith("+"):
            paragraphs += _missing_key(override, key, config)
    return "".join(f"\n{paragraph}\n" for paragraph in paragraphs)


def missing_groups(arguments: Sequence[str]) -> list[str]:
    """A sentence for every override of a config group that does not exist."""
    groups = _list_groups(arguments)
    named = [key for key in _keys(arguments).values() if "/" in key]
    return [_missing(f"config group '{key}'", key, "Groups", groups) for key in named if key not in groups]


def _list_groups(arguments: Sequence[str]) -> list[str]:
    """Groups of this application, and of a ``--config-dir`` among the arguments."""
    shared = {group for group in _groups(shared_folder()) if not group.startswith(app_folder().name)}
    places = (app_folder(), *config_dirs(arguments))
    return sorted(shared.union(*(_groups(place) for place in places)))


def _keys(arguments: Sequence[str]) -> dict[str, str]:
    """The overrides among the arguments, and what each is about."""
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith(("-", "hydra"))]
    return {override: override.partition("=")[0].lstrip("+~").partition("@")[0] for override in overrides}


def _missing_key(override: str, key: str, config: DictConfig) -> list[str]:
    """What the deepest part of the config that ``key`` reaches holds, unless it reaches its goal."""
    place: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        names = [str(name) for name in place] if isinstance(place, DictConfig) else []
        if part not in names:  # a key without a value (???) is there, although OmegaConf says it is not
            where = ".".join(parts[:depth]) or "the config"
            told = _missing(f"key '{part}' in {where}", part, "Keys", names)
            new = "_target_" in (names if part == parts[-1] else parts[-1:])
            return [f"{told} A new key takes a plus: +{override}" if new and not override.startswith("~") else told]
        place = None if OmegaConf.is_missing(place, part) else place[part]
    return []


def _missing(what: str, wrong: str, kind: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, names, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    return f"There is no {what}.{guess} {kind}: {', '.join(names) or 'none'}."


def _compose(overrides: Sequence[str]) -> DictConfig | None:
    """The config under the overrides that choose an option, or as it is where one of those is wrong."""
    for choices in (list(overrides), []):
        try:
            with initialize_config_dir(str(app_folder()), **BASE):
                return compose(PRIMARY, overrides=choices)
        except (HydraException, OmegaConfBaseException):
            continue
    return None


def config_dirs(arguments: Sequence[str]) -> Iterable[Path]:
    """Folders that ``--config-dir`` names."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument in ("--config-dir", "-cd"):
            yield Path(following)
        elif argument.startswith("--config-dir="):
            yield Path(argument.partition("=")[2])


def _groups(folder: Path) -> Iterable[str]:
    return (file.parent.relative_to(folder).as_posix() for file in folder.rglob("*.yaml") if file.parent != folder)
