"""Which methods need no more seeds, because they are clearly worse already."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_select.app.compare.judgement import clearly_worse, judge
from lightning_select.app.compare.reporting import Settings, partners_of
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.summary import alike, outcomes_of, target_of

__all__ = ["ENOUGH", "hopeless"]

ENOUGH = 3
"""Seeds that it takes, by the rule of `lightning_select.app.compare.judgement.clearly_worse`."""


def hopeless(runs: Sequence[Run], settings: Settings) -> dict[str, int]:
    """Methods whose 99 % intervals lie wholly on the worse side, and the number of seeds that it took to say so.

    Worse than uniform with as many steps and than uniform at equal cost in the final metric, and than the latter in
    compute or time to the target, after at least three seeds. A method that never reaches a target which uniform always
    reaches is worse in that respect. To look after every seed, as a comparison does, makes it likelier than 1 in 100
    that chance stops a method; the final metric and the target have to agree, which makes it rarer.

    Args:
        runs: All runs so far.
        settings: How to look at them.
    """
    partners = partners_of(runs)
    runs, final_metric = alike(runs, settings.metric)
    target = target_of(runs, settings.target, higher=settings.higher)
    outcomes = outcomes_of(runs, target, higher=settings.higher)
    higher = settings.higher_final(final_metric)
    judgements = judge(outcomes, partners, target=target, higher=higher, level=0.99)
    return {one.method: len(outcomes[one.method]) for one in judgements if clearly_worse(one)}
