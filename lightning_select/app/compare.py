"""``task=compare``: train every method on the same seeds, and tell them apart."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from tqdm import tqdm

from lightning_select.app.batch_size import settle_batch_size
from lightning_select.app.budget import budget_in_steps
from lightning_select.app.checks import is_seed
from lightning_select.app.console import hush, say
from lightning_select.app.methods import ROLLOUTS, SAMPLER, UNIFORM, Method, compose_method, list_recipes, read_methods
from lightning_select.app.plot import plot_curves
from lightning_select.app.recorder import MissingMetricError, Point
from lightning_select.app.runs import Run, RunLog, write_csv
from lightning_select.app.summary import alike, outcomes_of, summarise, target_of
from lightning_select.app.table import format_table
from lightning_select.app.training import train_one
from lightning_select.app.verdict import verdict
from lightning_select.errors import ConfigurationError

__all__ = ["compare"]


def compare(config: DictConfig) -> None:
    """Train every method on every seed, and report whatever finished, even when interrupted."""
    if config.compare.mode not in ("max", "min"):
        raise ConfigurationError(f"compare.mode must be max or min, got {config.compare.mode!r}.")
    entries = OmegaConf.to_container(config.methods, resolve=True) if OmegaConf.is_config(config.methods) else None
    known = [list_recipes(), list_recipes(SAMPLER), list_recipes(ROLLOUTS)]
    methods = read_methods(config.methods if entries is None else entries, *known)
    seeds = _seeds(config)
    uniform = compose_method(Method(UNIFORM, ()), seeds[0], None)
    key, notice = settle_batch_size(uniform)
    for method in methods:  # what is wrong with a config shows before anything is trained
        try:
            compose_method(method, seeds[0], key)
        except HydraException as error:
            raise ConfigurationError(f"methods must fit the config, got {method}: {error}") from error
    budget = {} if key is None else budget_in_steps(uniform)
    if notice:
        say(notice)
    folder = Path(HydraConfig.get().runtime.output_dir)
    log = RunLog(folder)
    runs: list[Run] = []
    try:
        with hush(), tqdm(total=len(methods) * len(seeds), unit="run", dynamic_ncols=True) as bar:
            for seed in seeds:
                for method in methods:
                    attempt = functools.partial(_train, method, seed, key, budget, config, _reporter(bar, method, seed))
                    run = _attempt(attempt, method, seed, folder, first=all(run.error for run in runs))
                    log.add(run)
                    runs.append(run)
                    bar.update()
    finally:
        if runs:
            _report(runs, config, folder)
    if all(run.error for run in runs):
        raise ConfigurationError(
            f"task=compare must have a run that finishes, got {len(runs)} that failed, the first with "
            f"{runs[0].error.rstrip('.')}. The whole story: {folder / 'errors.txt'}"
        )


def _train(
    method: Method,
    seed: int,
    key: str | None,
    budget: Mapping[str, Any],
    config: DictConfig,
    report: Callable[[Point], None],
) -> Run:
    return train_one(compose_method(method, seed, key), method.name, seed, budget, report)


def _attempt(train: Callable[[], Run], method: Method, seed: int, folder: Path, *, first: bool) -> Run:
    """A run, or the reason why there is none; the others go on.

    Raises:
        MissingMetricError: The module logs no such metric, and no run has found it yet: the others will not either.
    """
    try:
        return train()
    except Exception as error:  # whatever a method, a module or Hydra may raise
        with (folder / "errors.txt").open("a", encoding="utf-8") as handle:
            handle.write(f"{method.name}, seed {seed}:\n{traceback.format_exc()}\n")
        if first and isinstance(error, MissingMetricError):
            raise
        line = next(iter(str(error).splitlines()), "")
        return Run(method.name, seed, error=f"{type(error).__name__}: {line}")


def _report(runs: Sequence[Run], config: DictConfig, folder: Path) -> None:
    """Table, files and verdict."""
    settings = config.compare
    higher = settings.mode == "max"
    runs, final_metric = alike(runs, settings.metric)
    target = target_of(runs, settings.target, higher=higher)
    lines = summarise(runs, target, higher=higher)
    names = {"metric": settings.metric, "final_metric": final_metric}
    say("\n" + format_table(lines, target=target, **names))
    write_csv(folder / "table.csv", [asdict(line) | names | {"target": target} for line in lines])
    if plot_curves(runs, folder / "compare.png", metric=settings.metric, target=target):
        say(f"\nCurves: {folder / 'compare.png'}")
    else:
        say("\nNo plot: it takes matplotlib and a finished run.")
    say(f"Numbers: {folder / 'table.csv'}, runs.csv and curves.csv beside it")
    say(verdict(outcomes_of(runs, target, higher=higher), target=target, higher=higher, **names))


def _reporter(bar: Any, method: Method, seed: int) -> Callable[[Point], None]:
    """Shows on the bar where the run stands."""
    bar.set_description(f"{method.name}, seed {seed}")

    def report(point: Point) -> None:
        bar.set_postfix_str(f"step {point.step}, {point.value:.3f}")

    return report


def _seeds(config: DictConfig) -> list[int]:
    seeds = config.seeds
    listed = list(seeds) if isinstance(seeds, ListConfig) else []
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        listed = [config.seed + place for place in range(seeds)]
    if not listed or len(set(listed)) < len(listed) or not all(is_seed(seed) for seed in listed):
        raise ConfigurationError(f"seeds must be a number of at least 1, or a list of different ones, got {seeds!r}.")
    return listed
