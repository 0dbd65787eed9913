"""Where a comparison stands while it runs: a bar, or a line per run where several comparisons share a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from tqdm import tqdm

from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run
from lightning_select.app.console import say

__all__ = ["Progress", "is_shared", "progress_of"]

_BASIC = "BasicLauncher"
"""The launcher that runs jobs one after the other."""


def is_shared() -> bool:
    """Do jobs of a sweep run side by side?"""
    hydra = HydraConfig.get()
    return hydra.mode == RunMode.MULTIRUN and not str(hydra.launcher.get("_target_")).endswith(_BASIC)


@contextmanager
def progress_of(planned: int) -> Iterator[Progress]:
    """A progress for as long as the context is open."""
    shared = is_shared()
    with tqdm(total=planned, unit="run", dynamic_ncols=True, disable=shared) as bar:
        yield Progress(bar, planned, shared=shared)


class Progress:
    """What is told of the runs.

    Args:
        bar: The bar.
        planned: Runs that are known of.
        shared: Does the terminal belong to other jobs too?
    """

    def __init__(self, bar: Any, planned: int, *, shared: bool) -> None:
        self._bar = bar
        self._planned = planned
        self._done = 0
        self._shared = shared

    def expect(self, count: int) -> None:
        """So many more runs are known of."""
        self._planned += count
        self._bar.total = self._planned
        self._bar.refresh()

    def skip(self) -> None:
        """One of them is not needed."""
        self.expect(-1)

    def start(self, method: str, seed: int) -> Callable[[Point], None]:
        """A run starts; the returned function is to be told of its evaluations."""
        self._bar.set_description(f"{method}, seed {seed}")

        def tell(point: Point) -> None:
            self._bar.set_postfix_str(f"step {point.step}, {point.value:.3f}")

        return tell

    def finish(self, run: Run) -> None:
        """A run is over."""
        self._done += 1
        self._bar.update()
        if self._shared:
            end = run.error or f"{run.final_metric} {run.final:.4g} in {run.seconds:.1f} s"
            say(f"seed {run.seed}, {run.method}: {end} ({self._done} of {self._planned} runs)")
