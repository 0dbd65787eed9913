"""One sentence that follows from the numbers, whatever they are.

Every method is compared with uniform on the seeds that both finished, in three respects: optimiser steps to the target,
rows through the model to the target ("samples"), and the final metric. Steps and samples are compared by their ratio
(the mean of the logarithms' differences), the final metric by its difference. The rules, in this order:

1. Fewer than two common seeds: no evidence.
2. Uniform reaches the target in no common run and the method in all of them: the method is better.
3. The method reaches the target in no common run: it never does.
4. One of the two reaches the target in some common runs only: no evidence.
5. The paired 95 % interval (Student's t) lies on one side of "no difference": better or worse. It covers it: no
   evidence. The intervals are not widened for the number of methods that are compared.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_select.app.methods import UNIFORM
from lightning_select.app.summary import Outcome

__all__ = ["Finding", "compare_finals", "compare_ratios", "verdict"]

_T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""97.5 % quantile of Student's t with 1, 2, ... degrees of freedom."""

Pairs = Sequence[tuple[float, float]]
"""What the method and uniform came to, seed by seed."""


@dataclass(frozen=True)
class Finding:
    """How a method compares with uniform in one respect, and the numbers for it in words."""

    kind: Literal["better", "worse", "never", "unclear"]
    numbers: str = ""


def verdict(
    outcomes: Mapping[str, Mapping[int, Outcome]],
    *,
    target: float | None,
    metric: str,
    final_metric: str,
    higher: bool,
) -> str:
    """The sentence.

    Args:
        outcomes: Outcomes by method and seed, uniform among them.
        target: Value of ``metric`` that was to be reached.
        metric: Name of the metric of the curves.
        final_metric: Name of the metric after training.
        higher: Is more of them better?
    """
    uniform = outcomes.get(UNIFORM, {})
    others = {name: runs for name, runs in outcomes.items() if name != UNIFORM and runs}
    if not uniform or not others:
        return "Verdict: there is none, because it takes finished runs of uniform and something to compare them with."
    seeds = {name: sorted(uniform.keys() & runs.keys()) for name, runs in others.items()}
    common = max(len(of_method) for of_method in seeds.values())
    if common < 2:
        return f"Verdict: there is none, because no evidence comes from fewer than two paired seeds, got {common}."

    def pairs(name: str, of: Callable[[Outcome], float]) -> Pairs:
        return [(of(others[name][seed]), of(uniform[seed])) for seed in seeds[name]]

    clauses = []
    everyone = [run for runs in outcomes.values() for run in runs.values()]
    if target is not None and not any(math.isfinite(run.steps) for run in everyone):
        clauses.append(f"the target {metric} {target:.4g} is never reached by any method")
    elif target is not None:
        for unit, of in (("step", _steps), ("sample", _samples)):
            findings = {name: compare_ratios(pairs(name, of), f"times its {unit}s") for name in others}
            clauses.append(f"per {unit} (to {metric} {target:.4g}) {_clause(findings)}")
    finals = {name: compare_finals(pairs(name, _final), higher=higher) for name in others}
    clauses.append(f"in final {final_metric} {_clause(finals)}")
    unfinished = [name for name, runs in outcomes.items() if not runs]
    if unfinished:
        clauses.append(f"{_listed(unfinished)} finished no run")
    most = "" if all(len(of_method) == common for of_method in seeds.values()) else "at most "
    return f"Verdict ({most}{common} paired seeds, 95 % intervals): {'; '.join(clauses)}."


def compare_ratios(pairs: Pairs, unit: str) -> Finding:
    """Compare numbers of which less is better and infinite is never."""
    ours, theirs = ([math.isfinite(pair[side]) for pair in pairs] for side in (0, 1))
    if len(pairs) < 2:
        return Finding("unclear")
    if all(ours) and not any(theirs):
        return Finding("better", "which uniform never reaches")
    if not any(ours):
        return Finding("never")
    if not (all(ours) and all(theirs)):
        return Finding("unclear")
    low, mean, high = (math.exp(end) for end in _interval([math.log(one / other) for one, other in pairs]))
    numbers = f"{mean:.2f} {unit}, {low:.2f} to {high:.2f}"
    return Finding("better" if high < 1 else "worse" if low > 1 else "unclear", numbers)


def compare_finals(pairs: Pairs, *, higher: bool) -> Finding:
    """Compare final metrics."""
    if len(pairs) < 2:
        return Finding("unclear")
    low, mean, high = _interval([one - other for one, other in pairs])
    numbers = f"by {mean:+.3g}, {low:+.3g} to {high:+.3g}"
    above, below = low > 0, high < 0
    better, worse = (above, below) if higher else (below, above)
    return Finding("better" if better else "worse" if worse else "unclear", numbers)


def _interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Lower end, mean and upper end of the paired 95 % interval."""
    freedom = len(differences) - 1
    quantile = _T_QUANTILES[freedom - 1] if freedom <= len(_T_QUANTILES) else 1.96 + 2.5 / freedom
    mean = statistics.fmean(differences)
    half = quantile * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean - half, mean, mean + half


def _clause(findings: Mapping[str, Finding]) -> str:
    """Who is better, who is worse, who never gets there, and where there is no evidence."""
    groups: dict[str, list[str]] = {}
    for name, finding in findings.items():
        told = finding.numbers and finding.kind in ("better", "worse")
        groups.setdefault(finding.kind, []).append(f"{name} ({finding.numbers})" if told else name)
    better, worse = groups.get("better", []), groups.get("worse", [])
    parts = [f"{_listed(better)} beat{_s(better)} uniform" if better else "no method beats uniform"]
    if worse:
        parts.append(f"{_listed(worse)} {'is' if len(worse) == 1 else 'are'} worse")
    if "never" in groups:
        parts.append(f"{_listed(groups['never'])} never get{_s(groups['never'])} there")
    if "unclear" in groups:
        parts.append(f"there is no evidence either way for {_listed(groups['unclear'])}")
    return _listed(parts)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _s(words: Sequence[str]) -> str:
    return "s" if len(words) == 1 else ""


def _steps(outcome: Outcome) -> float:
    return outcome.steps


def _samples(outcome: Outcome) -> float:
    return outcome.samples


def _final(outcome: Outcome) -> float:
    return outcome.final
