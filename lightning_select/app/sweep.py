"""One table for the jobs of a sweep, each of which compared the methods on some of the seeds.

It is made when all jobs are done, or one of them has failed, whatever launched them::

    lightning-select -m task=compare seed=0,1,2 seeds=1 threads=1 hydra/launcher=joblib

Hydra has callbacks for the end of a sweep, but none when a job fails, and from version 1.4 on it warns of every one
that a config names. So the command settles the folder of a sweep before Hydra starts, and looks into it afterwards.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from lightning_select.app.console import complain, say
from lightning_select.app.reporting import Settings, partners_of, report
from lightning_select.app.resuming import COMPARISON, read_settings
from lightning_select.app.runs import Run, RunLog, read_runs
from lightning_select.errors import ConfigurationError

__all__ = ["join_jobs", "settle_folder"]

_SWEEPING = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
_DIR = "hydra.sweep.dir="


def settle_folder(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments with a folder that is known, and the folder; ``None`` where this is no sweep, or it is computed."""
    if not _SWEEPING & set(arguments):
        return list(arguments), None
    given = [argument.removeprefix(_DIR).strip("'\"") for argument in arguments if argument.startswith(_DIR)]
    if given:
        return list(arguments), None if "${" in given[-1] else Path(given[-1])
    folder = Path("outputs", "multirun", f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    return [*arguments, f"{_DIR}{folder.as_posix()}"], folder


def join_jobs(folder: Path) -> None:
    """Write one table, page and picture into the folder of a sweep; where there are no comparisons, nothing happens.

    Jobs that trained the methods in another way (``model.lr=0.1,0.01``) are joined apart, in a folder for each.
    """
    files = sorted(file for file in folder.rglob(COMPARISON) if file.parent != folder)
    kinds: dict[str, list[Path]] = {}
    for file in files:
        trained = read_settings(file.parent)["methods"]
        kinds.setdefault(json.dumps(trained, sort_keys=True), []).append(file.parent)
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
