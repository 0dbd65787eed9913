"""One sentence that follows from the numbers, whatever they are.

What is better, worse or unclear is decided in `findings` and `judgement`, and
put into words here: first who helps and who hurts at equal cost, then every respect in which methods differ from
uniform with as many steps. The intervals are not widened for the number of methods that are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_select.app.compare.equal_cost import is_baseline
from lightning_select.app.compare.findings import Finding
from lightning_select.app.compare.judgement import Judgement, Outcomes
from lightning_select.app.compare.magnitude import is_finite
from lightning_select.app.compare.methods import UNIFORM

__all__ = ["verdict"]

_UNITS = {"steps": "step", "samples": "sample", "seconds": "second"}


def verdict(
    outcomes: Outcomes, judgements: Sequence[Judgement], *, target: float | None, metric: str, final_metric: str
) -> str:
    """The sentence.

    Args:
        outcomes: Outcomes by method and seed, uniform among them.
        judgements: What is said about each method.
        target: Value of ``metric`` that was to be reached.
        metric: Name of the metric of the curves.
        final_metric: Name of the metric after training.
    """
    if not outcomes.get(UNIFORM) or not judgements:
        return "Verdict: there is none, because it takes finished runs of uniform and something to compare them with."
    seeds = [0 if one.equal_steps is None else len(one.equal_steps.seeds) for one in judgements]
    if max(seeds) < 2:
        return f"Verdict: there is none, because no evidence comes from fewer than two paired seeds, got {max(seeds)}."
    clauses = [f"at equal cost {_overall(judgements, final_metric)}"]
    axes = {one.method: one.equal_steps.axes if one.equal_steps else {} for one in judgements}
    finals = {one.method: one.equal_steps.final if one.equal_steps else Finding("unclear") for one in judgements}
    everyone = [run for runs in outcomes.values() for run in runs.values()]
    goal = "" if target is None else f"{metric} {target:.4g}"
    if target is not None and not any(math.isfinite(run.steps) for run in everyone):
        clauses.append(f"the target {goal} is never reached by any method")
    elif target is not None:
        for axis, unit in _UNITS.items():
            findings = {name: of_method.get(axis, Finding("unclear")) for name, of_method in axes.items()}
            clauses.append(f"per {unit} (to {goal}) {_clause(findings)}")
    clauses.append(f"in final {final_metric} {_clause(finals)}")
    unfinished = [name for name, runs in outcomes.items() if not runs and not is_baseline(name)]
    if unfinished:
        clauses.append(f"{_listed(unfinished)} finished no run")
    clauses += _not_finite(outcomes, final_metric)
    most = "" if min(seeds) == max(seeds) else "at most "
    head = f"Verdict ({most}{max(seeds)} paired seeds, 95 % intervals, not adjusted for the number of methods)"
    return f"{head}: {clauses[0]}; at equal steps {'; '.join(clauses[1:])}."


def _not_finite(outcomes: Outcomes, final_metric: str) -> list[str]:
    """Who ended at what is no number, which enters no interval."""
    odd = {name: sum(not is_finite(run.final) for run in runs.values()) for name, runs in outcomes.items()}
    told = [f"{name} in {count} of {len(outcomes[name])}" for name, count in odd.items() if count]
    return [f"the final {final_metric} is not finite in some runs, of {_listed(told)}"] if told else []


def _overall(judgements: Sequence[Judgement], final_metric: str) -> str:
    """Who helps, who hurts, with the evidence, and for whom there is none."""
    groups: dict[str, list[str]] = {}
    for one in judgements:
        told = _evidence(one, final_metric) if one.verdict != "no evidence" else ""
        if one.equal_cost is None:
            told = "uniform at equal cost was not run"
        groups.setdefault(one.verdict, []).append(f"{one.method} ({told})" if told else one.method)
    helps, hurts, unclear = (groups.get(word, []) for word in ("helps", "hurts", "no evidence"))
    parts = [f"{_listed(helps)} help{_s(helps)}" if helps else "no method helps"]
    if hurts:
        parts.append(f"{_listed(hurts)} hurt{_s(hurts)}")
    if unclear:
        parts.append(f"there is no evidence either way for {_listed(unclear)}")
    return _listed(parts)


def _evidence(judgement: Judgement, final_metric: str) -> str:
    names = {"final": f"final {final_metric}", "cost": "compute to target"}
    told = {names[respect]: one for respect, one in judgement.decisive.items() if one.kind != "unclear"}
    return "; ".join(f"{name} {one.numbers}" for name, one in told.items())


def _clause(findings: Mapping[str, Finding]) -> str:
    """Who is better, who is worse, who never gets there, and where there is no evidence."""
    groups: dict[str, list[str]] = {}
    for name, finding in findings.items():
        told = f"{name} ({finding.numbers})" if finding.kind != "unclear" else name
        groups.setdefault(finding.kind, []).append(told)
    better, worse = groups.get("better", []), groups.get("worse", [])
    parts = [f"{_listed(better)} beat{_s(better)} uniform" if better else "no method beats uniform"]
    if worse:
        parts.append(f"{_listed(worse)} {'is' if len(worse) == 1 else 'are'} worse")
    if "unclear" in groups:
        parts.append(f"there is no evidence either way for {_listed(groups['unclear'])}")
    return _listed(parts)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _s(words: Sequence[str]) -> str:
    return "s" if len(words) == 1 else ""
