"""``task=compare``: train every method on the same seeds, and tell them apart."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from lightning_select.app.budget import budget_in_steps
from lightning_select.app.console import hush, say
from lightning_select.app.methods import UNIFORM, Method, compose_method, list_recipes, read_methods
from lightning_select.app.plot import plot_curves
from lightning_select.app.recorder import Point
from lightning_select.app.runs import Run, RunLog, write_csv
from lightning_select.app.summary import outcomes_of, summarise, target_of
from lightning_select.app.table import format_table
from lightning_select.app.training import train_one
from lightning_select.app.verdict import verdict
from lightning_select.errors import ConfigurationError

__all__ = ["compare"]


def compare(config: DictConfig) -> None:
    """Train every method on every seed, and report whatever finished, even when interrupted."""
    if config.compare.mode not in ("max", "min"):
        raise ConfigurationError(f"compare.mode must be max or min, got {config.compare.mode!r}.")
    entries: Any = OmegaConf.to_container(config.methods, resolve=True)
    methods = read_methods(entries, list_recipes())
    seeds = _seeds(config)
    for method in methods:  # what is wrong with a config shows before anything is trained
        try:
            compose_method(method, seeds[0], config.compare.batch_size_key)
        except HydraException as error:
            raise ConfigurationError(f"methods must fit the config, got {method}: {error}") from error
    uniform = compose_method(Method(UNIFORM, ()), seeds[0], None)
    budget = {} if config.compare.batch_size_key is None else budget_in_steps(uniform)
    folder = Path(HydraConfig.get().runtime.output_dir)
    log, runs = RunLog(folder), []
    try:
        with hush(), tqdm(total=len(methods) * len(seeds), unit="run", dynamic_ncols=True) as bar:
            for seed in seeds:
                for method in methods:
                    run = _attempt(method, seed, budget, config, folder, _reporter(bar, method, seed))
                    log.add(run)
                    runs.append(run)
                    bar.update()
    finally:
        if runs:
            _report(runs, config, folder)


def _attempt(
    method: Method,
    seed: int,
    budget: Mapping[str, Any],
    config: DictConfig,
    folder: Path,
    report: Callable[[Point], None],
) -> Run:
    """A run, or the reason why there is none; the others go on."""
    try:
        composed = compose_method(method, seed, config.compare.batch_size_key)
        return train_one(composed, method.name, seed, budget, report)
    except Exception as error:  # whatever a method, a module or Hydra may raise
        with (folder / "errors.txt").open("a", encoding="utf-8") as handle:
            handle.write(f"{method.name}, seed {seed}:\n{traceback.format_exc()}\n")
        first = next(iter(str(error).splitlines()), "")
        return Run(method.name, seed, error=f"{type(error).__name__}: {first}")


def _report(runs: Sequence[Run], config: DictConfig, folder: Path) -> None:
    """Table, files and verdict."""
    settings = config.compare
    higher = settings.mode == "max"
    target = target_of(runs, settings.target, higher=higher)
    lines = summarise(runs, target, higher=higher)
    names = {"metric": settings.metric, "final_metric": settings.final_metric}
    say("\n" + format_table(lines, target=target, **names))
    write_csv(folder / "table.csv", [asdict(line) | {"target": target} for line in lines])
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
    listed = [config.seed + place for place in range(seeds)] if isinstance(seeds, int) else list(seeds)
    if not listed or len(set(listed)) < len(listed) or not all(isinstance(seed, int) for seed in listed):
        raise ConfigurationError(f"seeds must be a number of at least 1, or a list of different ones, got {seeds!r}.")
    return listed
