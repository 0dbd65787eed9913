"""A comparison that was killed goes on where it stopped: in its folder lie its runs and what they were trained with.

Runs that finished are not run again; one that failed, or was on its way, starts from its beginning.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_select.app.compare.methods import leaves
from lightning_select.app.compare.runs import RUNS, Run, read_runs, write_whole
from lightning_select.app.console import say
from lightning_select.errors import ConfigurationError

__all__ = ["COMPARISON", "comparison_folder", "finished_runs", "note_settings", "read_settings"]

COMPARISON = "comparison.json"
"""What a comparison is trained with."""

_FREE = ("seed", "seeds", "methods", "task", "threads")
_FREE_SETTINGS = ("target", "final_mode", "equal_cost", "stop_worse", "resume", "reports")
"""What may change: more seeds or methods, and how the runs are looked at."""

_SHOWN = ("metric", "mode", "target", "final_mode")
"""Those of them that say how, and are written down for a table of several jobs."""


def comparison_folder(config: DictConfig) -> Path:
    """Where the files of the comparison lie: ``compare.resume``, or else the folder that Hydra made.

    Raises:
        ConfigurationError: There is no such folder, or each job of a sweep would write into it.
    """
    resume = config.compare.resume
    if resume is None:
        return Path(HydraConfig.get().runtime.output_dir)
    if not isinstance(resume, str) or not Path(resume).is_dir():
        raise ConfigurationError(f"compare.resume must be null or the folder of a comparison, got {resume!r}.")
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ConfigurationError(
            f"compare.resume must be null in a sweep, got {resume!r}. Name the folder of the sweep: "
            f"hydra.sweep.dir='{resume}'."
        )
    return Path(resume)


def note_settings(folder: Path, config: DictConfig, methods: Mapping[str, DictConfig]) -> None:
    """Write down what the methods are trained with, or check it against what stands there.

    Args:
        folder: Folder of the comparison.
        config: The config of the comparison.
        methods: The config of every method, for any seed.

    Raises:
        ConfigurationError: The folder holds another comparison; the message says what differs.
    """
    settings = {name: _essence(config) for name, config in methods.items()}
    file = folder / COMPARISON
    if file.exists():
        known = read_settings(folder)["methods"]
        _check_same(known, settings, folder)
        settings = known | settings
    elif (folder / RUNS).exists():
        raise ConfigurationError(f"hydra.run.dir must be a new folder, got {folder}, which already holds {RUNS}.")
    shown = {name: config.compare[name] for name in _SHOWN}
    write_whole(file, json.dumps({"shown": shown, "methods": settings}, indent=1))


def finished_runs(folder: Path) -> list[Run]:
    """The runs of an earlier attempt that finished."""
    runs = [run for run in read_runs(folder) if not run.error]
    if runs:
        say(f"Resumed: {len(runs)} finished {'run' if len(runs) == 1 else 'runs'} of {folder}")
    return runs


def _check_same(known: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> None:
    place = f"A new comparison takes another folder than {folder}."
    gone = [name for name in known if name not in settings]
    if gone:
        raise ConfigurationError(f"methods must hold those of the comparison that goes on, got none of {gone}. {place}")
    for name, before in known.items():
        now = settings[name]
        differ = [
            key for key in sorted(before.keys() | now.keys()) if json.dumps(before.get(key)) != json.dumps(now.get(key))
        ]
        if differ:
            key, more = differ[0], f" and {len(differ) - 1} more" if len(differ) > 1 else ""
            raise ConfigurationError(
                f"A comparison that goes on must train {name} as before, got {key}={now.get(key)!r} where it was "
                f"{before.get(key)!r}{more}. {place}"
            )


def read_settings(folder: Path) -> dict[str, Any]:
    """What `note_settings` wrote: ``methods`` (their configs, key by key) and ``shown`` (how the runs are looked at).

    Raises:
        ConfigurationError: It is damaged.
    """
    file = folder / COMPARISON
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        methods = {name: dict(method) for name, method in dict(settings["methods"]).items()}
        shown = {"final_mode": None} | dict(settings["shown"])
        if not _fits(shown):
            raise ValueError(f"shown: {shown}")
        return {"methods": methods, "shown": shown}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{file} must be what a comparison wrote, got {error!r}.") from error


def _fits(shown: Mapping[str, Any]) -> bool:
    """Has it the names and kinds of values that a comparison writes?"""
    if shown.keys() != {*_SHOWN}:
        return False
    target, ways = shown["target"], ("max", "min")
    reachable = target is None or (isinstance(target, (int, float)) and math.isfinite(target))
    return (
        isinstance(shown["metric"], str)
        and shown["mode"] in ways
        and shown["final_mode"] in (None, *ways)
        and reachable
    )


def _essence(config: DictConfig) -> dict[str, Any]:
    """What a method is trained with, key by key, as it was typed: seeds and folders differ from run to run."""
    whole: Any = OmegaConf.to_container(config, resolve=False)
    for name in _FREE:
        whole.pop(name, None)
    for name in _FREE_SETTINGS:
        whole["compare"].pop(name, None)
    return {key: json.loads(json.dumps(value, default=str)) for key, value in leaves("", whole)}
