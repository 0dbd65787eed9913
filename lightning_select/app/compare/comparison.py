"""``task=compare``: train every method on the same seeds, and tell them apart."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from lightning_select.app.building import OtherLightningError, check_sampler, is_import_failure
from lightning_select.app.checks import is_seed
from lightning_select.app.compare.batch_size import settle_batch_size
from lightning_select.app.compare.budget import ManualStepsError, budget_in_steps, check_lengths
from lightning_select.app.compare.equal_cost import is_baseline, missed_cost, missing_baselines, plan_baseline
from lightning_select.app.compare.fairness import check_overrides, stops_early, unfairness
from lightning_select.app.compare.methods import (
    ROLLOUTS,
    SAMPLER,
    UNIFORM,
    Method,
    compose_method,
    list_recipes,
    read_methods,
)
from lightning_select.app.compare.progress import Progress, is_shared, progress_of
from lightning_select.app.compare.recorder import MissingMetricError
from lightning_select.app.compare.reporting import Settings, report
from lightning_select.app.compare.resuming import comparison_folder, finished_runs, note_settings
from lightning_select.app.compare.runs import Run, RunLog
from lightning_select.app.compare.stopping import ENOUGH, hopeless
from lightning_select.app.compare.training import run_folder, train_one
from lightning_select.app.console import hush, say
from lightning_select.callbacks.selection_report import SelectionReport
from lightning_select.errors import ConfigurationError, RowIdError

__all__ = ["compare"]


def compare(config: DictConfig) -> None:
    """Train every method on every seed, and report whatever finished, even when interrupted."""
    comparison = _Comparison(config)
    try:
        with hush(), progress_of(comparison.planned) as bar:
            comparison.train(bar)
    finally:
        if comparison.runs:
            report(comparison.runs, comparison.settings, comparison.folder)
    runs = comparison.runs
    if all(run.error for run in runs):
        raise ConfigurationError(
            f"task=compare must have a run that finishes, got {len(runs)} that failed, the first with "
            f"{runs[0].error} (the whole story: {comparison.folder / 'errors.txt'})"
        )


class _Comparison:
    """One comparison: what it is to train, and the runs so far."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.seeds = _seeds(config)
        self.methods = _methods(config)
        uniform = compose_method(_UNIFORM, self.seeds[0], None)
        self.key, notice = settle_batch_size(uniform)
        uniform = compose_method(_UNIFORM, self.seeds[0], self.key)
        configs = {}
        for method in self.methods:  # what is wrong with a config shows before anything is trained
            try:
                configs[method.name] = compose_method(method, self.seeds[0], self.key)
            except HydraException as error:
                raise ConfigurationError(f"methods must fit the config, got {method}: {error}") from error
            check_overrides(method.name, configs[method.name], uniform, self.key)
            check_sampler(configs[method.name], method.name)
        check_lengths(uniform, configs, self.key)
        # Who draws the rows by a sampler has an order of its own.
        self.own_order = {name for name, one in configs.items() if OmegaConf.select(one, "sampler._target_")}
        self.budget = {} if self.key is None else budget_in_steps(uniform)
        if notice:
            say(notice)
        self.may_stop = stops_early(uniform)
        if self.may_stop:
            say("Notice: runs may end early (EarlyStopping), and are compared as they are, whatever their length.")
        if config.compare.stop_worse and len(self.seeds) <= ENOUGH:
            say(
                f"Notice: compare.stop_worse=true does nothing, because a method is only stopped after {ENOUGH} seeds "
                f"of one comparison, and this one has {len(self.seeds)}. Jobs of a sweep do not know of each other."
            )
        if is_shared() and config.threads is None:
            say("Notice: jobs that run side by side take each other's cores; threads=1 keeps each of them to one.")
        self.folder = comparison_folder(config)
        note_settings(self.folder, config, configs)
        self.runs = finished_runs(self.folder)
        self.log = RunLog(self.folder, self.runs)
        shown = config.compare
        self.settings = Settings(shown.metric, shown.mode, shown.target, final_mode=shown.final_mode)

    @property
    def planned(self) -> int:
        """Runs to train, as far as is known yet: what uniform at equal cost is to cost shows later."""
        had = {(run.method, run.seed) for run in self.runs}
        return sum((method.name, seed) not in had for method in self.methods for seed in self.seeds)

    def train(self, bar: Progress) -> None:
        """Train what is missing, seed by seed."""
        for seed in self.seeds:
            stopped = self._stopped()
            judged = {method.name for method in self.methods} - {UNIFORM}
            done = bool(judged) and judged <= stopped.keys()  # nobody is left to compare uniform with
            for method in self.methods:
                if self._has(method.name, seed):
                    continue
                if done or method.name in stopped:
                    bar.skip()
                else:
                    self._train(method, seed, self.budget, bar)
            if self.config.compare.equal_cost and not done:
                missing = missing_baselines(self.runs, seed)
                bar.expect(len(missing))
                for name, run, uniform in missing:
                    method, budget = plan_baseline(name, run, uniform, compose_method(_UNIFORM, seed, self.key))
                    self._train(method, seed, budget, bar)

    def _stopped(self) -> dict[str, int]:
        """Methods that get no more seeds, where the config asks for that."""
        if not self.config.compare.stop_worse or not self.runs:
            return {}
        stopped = hopeless(self.runs, self.settings)
        notes = {name: f"stopped after {count} seeds: clearly worse (99 %)" for name, count in stopped.items()}
        self.settings = replace(self.settings, notes=notes)
        return stopped

    def _has(self, name: str, seed: int) -> bool:
        return any((run.method, run.seed) == (name, seed) for run in self.runs)

    def _train(self, method: Method, seed: int, budget: Mapping[str, Any], bar: Progress) -> None:
        """One run; what it came to is on the disk when this returns."""
        tell = bar.start(method.name, seed)
        like = None if is_baseline(method.name) else self._uniform(seed)

        def attempt() -> Run:
            config = compose_method(method, seed, self.key)
            folder = run_folder(self.folder, method.name, seed)
            train = functools.partial(train_one, config, method.name, seed, budget, tell, folder, like)
            on_rows = seed in self.seeds[: self.config.compare.reports]
            try:
                run = train(on_rows=True) if on_rows else train()
            except (RowIdError, ConfigurationError) as error:  # data that no report can be made of: at the first batch
                by_report = isinstance(error, RowIdError) or SelectionReport.__name__ in str(error)
                if not on_rows or not by_report:
                    raise
                say(f"Notice: no report on the rows of {method.name}: {error}")
                run = train()
            return self._checked(run)

        run = _attempt(attempt, method, seed, self.folder, first=all(run.error for run in self.runs))
        self.log.add(run)
        self.runs.append(run)
        bar.finish(run)

    def _uniform(self, seed: int) -> Run | None:
        """Uniform's run on a seed, where it has finished."""
        done = (run for run in self.runs if not run.error)
        return next((run for run in done if (run.method, run.seed) == (UNIFORM, seed)), None)

    def _checked(self, run: Run) -> Run:
        """The run, or the reason why it cannot be compared with that of uniform on the same seed."""
        uniform = self._uniform(run.seed)
        if uniform is None:
            return run
        if is_baseline(run.method):
            planned = {name: owner for name, owner, _ in missing_baselines(self.runs, run.seed)}
            reason = missed_cost(run, planned[run.method], uniform) if run.method in planned else ""
        else:
            reason = unfairness(run, uniform, own_order=run.method in self.own_order, may_stop=self.may_stop)
        return Run(run.method, run.seed, error=f"unfair: {reason}") if reason else run


_UNIFORM = Method(UNIFORM, ())


def _attempt(train: Callable[[], Run], method: Method, seed: int, folder: Path, *, first: bool) -> Run:
    """A run, or the reason why there is none; the others go on.

    Raises:
        MissingMetricError: The module logs no such metric, and no run has found it yet: the others will not either.
        ManualStepsError, OtherLightningError: The module does not fit the Trainer, the same.
        InstantiationException: A class was not found, the same.
    """
    try:
        return train()
    except Exception as error:  # whatever a method, a module or Hydra may raise
        # Where even this cannot be written the line of the run cannot either, which is told in a sentence.
        with contextlib.suppress(OSError), (folder / "errors.txt").open("a", encoding="utf-8") as handle:
            handle.write(f"{method.name}, seed {seed}:\n{traceback.format_exc()}\n")
        shared = isinstance(error, (ManualStepsError, MissingMetricError, OtherLightningError))
        if first and (shared or is_import_failure(error)):
            raise
        line = next(iter(str(error).splitlines()), "")
        return Run(method.name, seed, error=f"{type(error).__name__}: {line}")


def _methods(config: DictConfig) -> list[Method]:
    """The methods, uniform first, because the others are measured by it."""
    entries = OmegaConf.to_container(config.methods, resolve=True) if OmegaConf.is_config(config.methods) else None
    known = [list_recipes(), list_recipes(SAMPLER), list_recipes(ROLLOUTS)]
    methods = read_methods(config.methods if entries is None else entries, *known)
    reserved = [method.name for method in methods if is_baseline(method.name)]
    if reserved:
        raise ConfigurationError(f"methods must not be called like uniform at equal cost, got {reserved[0]!r}.")
    return sorted(methods, key=lambda method: method.name != UNIFORM)


def _seeds(config: DictConfig) -> list[int]:
    seeds = config.seeds
    listed = list(seeds) if isinstance(seeds, ListConfig) else []
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        listed = [config.seed + place for place in range(seeds)]
    if not listed or len(set(listed)) < len(listed) or not all(is_seed(seed) for seed in listed):
        raise ConfigurationError(f"seeds must be a number of at least 1, or a list of different ones, got {seeds!r}.")
    return listed
