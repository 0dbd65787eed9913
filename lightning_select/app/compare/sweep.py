"""One table for the jobs of a sweep, each of which compared the methods on some of the seeds.

It is made when all jobs are done, or one of them has failed, whatever launched them::

    lightning-select -m task=compare seed=0,1,2 seeds=1 threads=1 hydra/launcher=joblib

Hydra has callbacks for the end of a sweep, but none when a job fails, and from version 1.4 on it warns of every one
that a config names. So the command settles the folder of a sweep before Hydra starts, and looks into it afterwards.
"""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_select.app.compare.reporting import Settings, partners_of, report
from lightning_select.app.compare.resuming import COMPARISON, read_settings
from lightning_select.app.compare.runs import Run, RunLog, read_runs
from lightning_select.app.config_path import PRIMARY, app_folder
from lightning_select.app.console import complain, say
from lightning_select.app.hints import config_dirs
from lightning_select.app.hydra_versions import BASE
from lightning_select.errors import ConfigurationError

__all__ = ["comparisons_in", "join_jobs", "settle_folder"]

_SWEEPING = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
_DIR = "hydra.sweep.dir="
_OURS = "outputs/multirun/${now:%Y-%m-%d_%H-%M-%S}"
"""The folder in our own config."""


_TAKING = {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--info", "-i"}
"""Flags whose value follows as an argument of its own."""


def settle_folder(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments with a folder that is known, and the folder; ``None`` where this is no sweep, or it is computed."""
    if not _SWEEPING & set(arguments):
        return list(arguments), None
    given = [argument.removeprefix(_DIR).strip("'\"") for argument in arguments if argument.startswith(_DIR)]
    if given:
        return list(arguments), None if "${" in given[-1] else Path(given[-1])
    typed, folder = _configured(arguments)
    if typed == _OURS:
        folder = Path("outputs", "multirun", f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
        return _with(arguments, f"{_DIR}{folder.as_posix()}"), folder
    if folder is not None and "${" in typed:  # with a time of the day, which must not pass in between
        return _with(arguments, f"{_DIR}{json.dumps(folder.as_posix())}"), folder
    return list(arguments), folder


def _places(arguments: Sequence[str]) -> list[int]:
    """Where overrides stand, between flags and their values."""
    before = ["", *arguments]
    return [
        place
        for place, argument in enumerate(arguments)
        if ("=" in argument or argument.startswith("~"))  # which deletes, with or without a value
        and not argument.startswith("-")
        and before[place] not in _TAKING
    ]


def _with(arguments: Sequence[str], override: str) -> list[str]:
    """One override more, behind the last: Hydra takes them in one piece, with flags before or after."""
    end = max(_places(arguments), default=len(arguments) - 1) + 1
    return [*arguments[:end], override, *arguments[end:]]


def _configured(arguments: Sequence[str]) -> tuple[str, Path | None]:
    """The folder of sweeps in the config files that are chosen: as it stands there, and what comes out, if anything."""
    follows = itertools.pairwise(arguments)
    names = [value for flag, value in follows if flag in ("--config-name", "-cn")]
    names += [one.partition("=")[2] for one in arguments if one.startswith("--config-name=")]
    places = ",".join(json.dumps(f"file://{place.absolute().as_posix()}") for place in config_dirs(arguments))
    overrides = [f"hydra.searchpath=[{places}]"] if places else []
    parser = OverridesParser.create()
    try:
        typed_here = (arguments[place] for place in _places(arguments))
        overrides += [one for one in typed_here if not parser.parse_override(one).is_sweep_override()]
        with initialize_config_dir(str(app_folder()), **BASE):
            config = compose(names[-1] if names else PRIMARY, overrides=overrides, return_hydra_config=True)
        typed: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        return str(typed["dir"]), Path(config.hydra.sweep.dir)
    except (HydraException, OmegaConfBaseException):
        return "", None


def comparisons_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """What every comparison below a folder was last started with: the file, and what changes when it is written."""
    files = [(file, file.stat()) for file in sorted(folder.rglob(COMPARISON)) if file.parent != folder]
    return {file: (known.st_mtime_ns, known.st_ino) for file, known in files}


def join_jobs(folder: Path, before: Mapping[Path, tuple[int, int]] | None = None) -> None:
    """Write one table, page and picture into the folder of a sweep; where there are no comparisons, nothing happens.

    Jobs that trained the methods in another way (``model.lr=0.1,0.01``) are joined apart, in a folder for each.

    Args:
        folder: Folder of the sweep.
        before: The comparisons that lay there before it started. Those that it did not touch are somebody else's, but
            for jobs (0, 1, ...) of an earlier sweep in this folder that trained the same: a sweep that goes on.
    """
    before = before or {}
    files = comparisons_in(folder)
    kinds: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: (before.get(file) == files[file], file)):  # those of this sweep first
        try:
            trained = json.dumps(read_settings(file.parent)["methods"], sort_keys=True)
        except ConfigurationError as error:
            complain(f"{file.parent} was not joined: {error}")
            continue
        earlier = file.parent.parent == folder and file.parent.name.isdigit() and trained in kinds
        if before.get(file) != files[file] or earlier:
            kinds.setdefault(trained, []).append(file.parent)
    kinds = {trained: sorted(jobs) for trained, jobs in kinds.items()}
    for number, kind in enumerate(kinds.values()):
        alone = len(kinds) == 1
        place = folder if alone else folder / f"joint_{number}"
        names = ", ".join(job.relative_to(folder).as_posix() for job in kind)
        say(f"\nJoint table of {len(kind)} {'job' if len(kind) == 1 else 'jobs'}{'' if alone else f' ({names})'}:")
        try:
            _join(kind, place)
        except ConfigurationError as error:
            complain(f"the jobs in {folder} were not joined: {error}")


def _join(jobs: Sequence[Path], folder: Path) -> None:
    """Report the runs of all jobs together; each method is compared with the baselines of its own job."""
    runs: dict[tuple[str, int], Run] = {}
    partners: dict[str, dict[int, str]] = {}
    repeated = 0
    for job in jobs:
        of_job = read_runs(job)
        repeated += sum((run.method, run.seed) in runs for run in of_job)
        runs = {(run.method, run.seed): run for run in of_job} | runs
        for method, names in partners_of(of_job).items():
            partners[method] = names | partners.get(method, {})
    if repeated:
        say(
            f"Notice: {repeated} runs were done by several jobs and count once. A seed for each job: seed=0,1,2 seeds=1"
        )
    if not runs:
        say("No job has a run.")
        return
    # Methods in the order of the first job, uniform at equal cost behind them.
    order = {method: place for place, method in enumerate(dict.fromkeys(method for method, _ in runs))}
    joint = sorted(runs.values(), key=lambda run: (order[run.method], run.seed))
    folder.mkdir(parents=True, exist_ok=True)
    RunLog(folder, joint)
    report(joint, Settings(**read_settings(jobs[0])["shown"]), folder, partners, jobs)
