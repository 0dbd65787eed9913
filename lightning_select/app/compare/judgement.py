"""What a comparison says about each method: "helps", "no evidence" or "hurts".

Every method is compared with uniform twice, on the seeds that both finished: at equal steps, and at equal cost
(`equal_cost`), in the final metric and in what it took to reach the target: steps at equal steps,
compute at equal cost. The word is

- "helps" where one of the two is better and the other is not worse,
- "hurts" where one of the two is worse and the other is not better,
- "no evidence" in all other cases.

The verdict is the word at equal cost, because a method that is ahead per step only may owe it to its extra work. A long
uniform run may overfit, though, where the shorter one with as many steps did not, and who can pay for the long one can
stop early: where uniform with as many steps costs no more than the method, being better means better than both, and
being worse than one of them is worse. Where uniform at equal cost was not run there is no evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_select.app.compare.equal_cost import TOLERANCE, is_baseline
from lightning_select.app.compare.findings import Finding, Pairs, compare_finals, compare_ratios
from lightning_select.app.compare.methods import UNIFORM
from lightning_select.app.compare.summary import Outcome

__all__ = ["AXES", "Against", "Judgement", "Outcomes", "Partners", "clearly_worse", "judge"]

Outcomes = Mapping[str, Mapping[int, Outcome]]
"""Outcomes by method and seed."""

Partners = Mapping[str, Mapping[int, str]]
"""Name of uniform at equal cost, by method and seed."""

AXES = {"steps": "steps", "samples": "samples", "cost": "compute", "seconds": "seconds"}
"""What is counted on the way to the target: attributes of an outcome, and their names."""


@dataclass(frozen=True)
class Against:
    """A method against one kind of uniform training.

    Attributes:
        baseline: Name of that.
        seeds: Seeds that both finished.
        final: In the final metric.
        axes: In what it took to reach the target, by attribute of `Outcome`; empty without a target.
        judged: The axis that counts.
    """

    baseline: str
    seeds: tuple[int, ...]
    final: Finding
    axes: Mapping[str, Finding]
    judged: str

    @property
    def verdict(self) -> str:
        """The word."""
        return _word([self.final, *([self.axes[self.judged]] if self.axes else [])])


@dataclass(frozen=True)
class Judgement:
    """What is said about a method.

    Attributes:
        method: Its name.
        equal_steps: Against uniform with as many steps; ``None`` where that was not run.
        equal_cost: Against uniform at equal cost, which is uniform itself where their costs agree.
        affordable: Does uniform with as many steps cost no more than the method?
    """

    method: str
    equal_steps: Against | None
    equal_cost: Against | None
    affordable: bool = True

    @property
    def comparisons(self) -> list[Against]:
        """Against uniform at equal steps and at equal cost, once where they are the same runs."""
        found = [one for one in (self.equal_steps, self.equal_cost) if one is not None]
        return found[:1] if len({one.baseline for one in found}) == 1 else found

    @property
    def verdict(self) -> str:
        """The word at equal cost."""
        return _word(list(self.decisive.values()))

    @property
    def decisive(self) -> dict[str, Finding]:
        """What decides at equal cost: ``final``, and ``cost`` where there is a target; empty where it was not run."""
        if self.equal_cost is None:
            return {}
        rivals = [self.equal_cost, *([self.equal_steps] if self.equal_steps and self.affordable else [])]
        found = {"final": _hardest([rival.final for rival in rivals])}
        if self.equal_cost.axes:
            found["cost"] = _hardest([rival.axes["cost"] for rival in rivals])
        return found


def judge(
    outcomes: Outcomes, partners: Partners, *, target: float | None, higher: bool, level: float = 0.95
) -> list[Judgement]:
    """One judgement per method that finished a run, in their order.

    Args:
        outcomes: All outcomes.
        partners: Who is compared with whom at equal cost.
        target: Value to reach; ``None`` leaves only the final metric.
        higher: Is more of the final metric better?
        level: Of the intervals.
    """
    judgements = []
    for method, runs in outcomes.items():
        if method == UNIFORM or is_baseline(method) or not runs:
            continue
        named = partners.get(method, {})
        against = []
        for names, judged in ((dict.fromkeys(runs, UNIFORM), "steps"), (named, "cost")):
            seeds = [seed for seed in sorted(runs) if seed in names and seed in outcomes.get(names[seed], {})]
            pairs = {seed: (runs[seed], outcomes[names[seed]][seed]) for seed in seeds}
            baseline = " or ".join(dict.fromkeys(names[seed] for seed in seeds))
            against.append(_against(baseline, pairs, judged, target, higher, level) if seeds else None)
        steps, cost = against
        judgements.append(Judgement(method, steps, cost, _affordable(runs, outcomes.get(UNIFORM, {}))))
    return judgements


def clearly_worse(judgement: Judgement) -> bool:
    """Is the method behind both kinds of uniform in the final metric and, at equal cost, on the way to the target?

    To be asked of a judgement at a level of 99 %. The target counts in compute or in seconds.
    """
    both = judgement.equal_steps, judgement.equal_cost
    if any(against is None or len(against.seeds) < 3 or against.final.kind != "worse" for against in both):
        return False
    axes = judgement.equal_cost.axes if judgement.equal_cost is not None else {}
    return not axes or "worse" in (axes["cost"].kind, axes["seconds"].kind)


def _word(findings: Sequence[Finding]) -> str:
    kinds = {finding.kind for finding in findings}
    if "better" in kinds:
        return "no evidence" if "worse" in kinds else "helps"
    return "hurts" if "worse" in kinds else "no evidence"


def _hardest(findings: Sequence[Finding]) -> Finding:
    """The finding against the strongest rival."""
    return min(findings, key=lambda finding: ("worse", "unclear", "better").index(finding.kind))


def _affordable(runs: Mapping[int, Outcome], uniform: Mapping[int, Outcome]) -> bool:
    """Does uniform cost no more, but for what counts as the same, on the seeds that both finished?"""
    common = runs.keys() & uniform.keys()
    ours, theirs = (sum(of[seed].spent for seed in common) for of in (runs, uniform))
    return theirs <= ours * (1 + TOLERANCE)


def _against(
    baseline: str,
    pairs: Mapping[int, tuple[Outcome, Outcome]],
    judged: str,
    target: float | None,
    higher: bool,
    level: float,
) -> Against:
    def of(name: str) -> Pairs:
        return [(getattr(one, name), getattr(other, name)) for one, other in pairs.values()]

    ours, theirs = (any(pair[side].early for pair in pairs.values()) for side in (0, 1))
    named = {} if target is None else AXES
    axes = {axis: compare_ratios(of(axis), f"times its {name}", level, (ours, theirs)) for axis, name in named.items()}
    return Against(baseline, tuple(pairs), compare_finals(of("final"), higher=higher, level=level), axes, judged)
