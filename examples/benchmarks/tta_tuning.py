"""How the settings of `time_to_accuracy` were found: rates first, then whether less compute would do.

Every method, uniform too, has as many rates to choose from, at the compute of uniform, by the mean accuracy on the
validation rows at the end, on seeds that are not reported; what draws as uniform does has its rate. A method that gets
as far as uniform does is then tried with less compute, at that rate, as long as it still does: time to accuracy is
about short runs whose rate falls to zero, not about a long one that is cut.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tta_arms import METHODS, UNIFORM, run
from tta_tasks import Task

__all__ = ["SHARES", "Setting", "Trial", "methods_of", "settings_from", "tune"]

SHARES = (1.0, 0.7, 0.5)
"""Of the compute of uniform."""


@dataclass(frozen=True)
class Setting:
    """The largest learning rate of a method, and the share of uniform's compute after which it ends."""

    rate: float
    share: float = 1.0


@dataclass(frozen=True)
class Trial:
    """What came out with a setting: the mean of the last accuracies on validation rows."""

    task: str
    method: str
    setting: Setting
    accuracy: float


def methods_of(task: Task) -> list[str]:
    """Those that the task has the rows for."""
    return [name for name, method in METHODS.items() if task.spare is not None or not method.spare]


def tune(task: Task, seeds: Sequence[int]) -> Iterator[Trial]:
    """All trials of a task, uniform first."""
    bar, own = 0.0, 0.0

    def trial(name: str, setting: Setting) -> Trial:
        ends = [run(task, name, setting.rate, setting.share, seed, held_out=True)[-1].accuracy for seed in seeds]
        return Trial(task.name, name, setting, statistics.mean(ends))

    for name in methods_of(task):
        trials = []
        for rate in [own] if METHODS[name].as_uniform else task.rates:
            trials.append(trial(name, Setting(rate)))
            yield trials[-1]
        best = max(trials, key=lambda one: one.accuracy)
        if name == UNIFORM:
            bar, own = best.accuracy, best.setting.rate
        for share in SHARES[1:]:
            if best.accuracy < bar:
                break
            best = trial(name, Setting(best.setting.rate, share))
            yield best


def settings_from(trials: Sequence[Trial]) -> Mapping[tuple[str, str], Setting]:
    """By task and method: of the rates the best, then the least compute that gets as far as uniform."""
    found: dict[tuple[str, str], Setting] = {}
    for task, method in dict.fromkeys((one.task, one.method) for one in trials):
        mine = [one for one in trials if (one.task, one.method) == (task, method)]
        whole = [one for one in trials if one.task == task and one.method == UNIFORM and one.setting.share == 1.0]
        bar = max(one.accuracy for one in whole)
        best = max((one for one in mine if one.setting.share == 1.0), key=lambda one: one.accuracy).setting
        enough = [one.setting for one in mine if one.accuracy >= bar and one.setting.rate == best.rate]
        found[task, method] = min(enough, key=lambda one: one.share, default=best)
    return found
