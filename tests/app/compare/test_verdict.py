"""Judgements and their sentence, on made-up tables."""

from __future__ import annotations

import dataclasses
import math

import pytest

from lightning_select.app.compare.judgement import clearly_worse, judge
from lightning_select.app.compare.summary import Outcome
from lightning_select.app.compare.verdict import verdict

NEVER = math.inf
BASELINE = "uniform (cost of rho)"


def table(**methods: list[tuple[float, float, float, float]]) -> dict[str, dict[int, Outcome]]:
    """Outcomes (final, steps, samples, cost; a step takes a hundredth of a second) of seeds 0, 1, ..."""
    return {
        name.replace("_at_cost", " (cost of rho)"): {
            seed: Outcome(final, steps, samples, cost, steps / 100)
            for seed, (final, steps, samples, cost) in enumerate(runs)
        }
        for name, runs in methods.items()
    }


def partners(outcomes, baseline: str = BASELINE) -> dict[str, dict[int, str]]:
    return {name: dict.fromkeys(runs, baseline) for name, runs in outcomes.items() if not name.startswith("uniform")}


def judged(outcomes, baseline: str = BASELINE, **kwargs):
    settings = {"target": 0.9, "higher": True} | kwargs
    return {one.method: one for one in judge(outcomes, partners(outcomes, baseline), **settings)}


def say(outcomes, baseline: str = "uniform", **kwargs) -> str:
    settings = {"target": 0.9, "higher": True} | kwargs
    judgements = judge(outcomes, partners(outcomes, baseline), **settings)
    return verdict(outcomes, judgements, target=settings["target"], metric="val/acc", final_metric="test/acc")


UNIFORM = [(0.90, 100, 1000, 3000), (0.91, 110, 1100, 3300), (0.92, 120, 1200, 3600)]
STUCK = [(0.5 + 0.01 * seed**2, NEVER, NEVER, NEVER) for seed in range(3)]


def scaled(steps: float, samples: float, final: float) -> list[tuple[float, float, float, float]]:
    """Uniform's runs times and plus something, which varies a little from seed to seed."""
    rows = zip(UNIFORM, (0.99, 1.0, 1.01), strict=True)
    return [(f + final * w, s * steps ** (w**2), n * samples**w, c * samples**w) for (f, s, n, c), w in rows]


def test_a_method_may_win_per_step_and_lose_per_sample() -> None:
    told = say(table(uniform=UNIFORM, rho=scaled(0.5, 3.0, 0.02), other=UNIFORM))
    assert told.startswith(
        "Verdict (3 paired seeds, 95 % intervals, not adjusted for the number of methods): at equal cost"
    )
    assert (
        "at equal cost no method helps and there is no evidence either way for rho and other; at equal steps " in told
    )
    assert "at equal steps per step (to val/acc 0.9) rho (0.50 times its steps, " in told
    assert ") beats uniform and there is no evidence either way for other; " in told
    assert "per sample (to val/acc 0.9) no method beats uniform, rho (3.00 times its samples, " in told
    assert "per second (to val/acc 0.9) rho (0.50 times its seconds, " in told
    assert "in final test/acc rho (by +0.02, +0.0" in told
    assert told.count("Verdict") == 1
    assert told.endswith(".")
    assert "\n" not in told


def test_several_are_listed() -> None:
    told = say(table(uniform=UNIFORM, a=scaled(0.5, 0.5, 0.02), b=scaled(0.7, 0.7, 0.01), c=scaled(2.0, 2.0, -0.02)))
    assert (
        "at equal cost a (final test/acc by +0.02, +0.0195 to +0.0205; compute to target 0.50 times its compute, "
        in told
    )
    assert ") help and c (final test/acc by -0.02, " in told
    assert ") hurts; at equal steps" in told
    assert ") and b (0.70 times its steps, " in told
    assert ") beat uniform and c (2.00 times its steps, " in told


@pytest.mark.parametrize(
    ("final", "cost", "word"),
    [
        (0.02, 0.5, "helps"),
        (0.02, 1.0, "helps"),
        (0.0, 0.5, "helps"),
        (0.02, 2.0, "no evidence"),
        (0.0, 1.0, "no evidence"),
        (-0.02, 0.5, "no evidence"),
        (-0.02, 1.0, "hurts"),
        (0.0, 2.0, "hurts"),
    ],
)
def test_the_verdict_is_that_at_equal_cost(final, cost, word) -> None:
    """Whatever there is at equal steps: here far ahead."""
    bad = [(f - 0.3 * (1 + f), 5 * s * f, 5 * n * f, 5 * c * f) for f, s, n, c in UNIFORM]
    one = judged(table(uniform=bad, rho=scaled(1.0, cost, final), uniform_at_cost=UNIFORM))["rho"]
    assert one.equal_steps.verdict == "helps"
    assert one.equal_steps.baseline == "uniform"
    assert one.equal_cost.baseline == BASELINE
    assert one.equal_cost.verdict == one.verdict == word


@pytest.mark.parametrize(("spent", "affordable", "word"), [(900.0, True, "no evidence"), (1100.0, False, "helps")])
def test_a_long_uniform_run_that_overfits_is_not_all_that_there_is_to_beat(spent, affordable, word) -> None:
    """Who pays for the long one can have the short one, unless that is the dearer of the two."""
    overfitted = [(f - 0.3 - 0.01 * f, s, n, c) for f, s, n, c in UNIFORM]
    outcomes = table(uniform=UNIFORM, rho=UNIFORM, uniform_at_cost=overfitted)
    for name, cost in (("uniform", spent), ("rho", 1000.0)):
        outcomes[name] = {seed: dataclasses.replace(run, spent=cost) for seed, run in outcomes[name].items()}
    one = judged(outcomes)["rho"]
    assert one.affordable is affordable
    assert one.equal_cost.verdict == "helps"
    assert (one.equal_steps.verdict, one.verdict) == ("no evidence", word)


def test_without_uniform_at_equal_cost_there_is_no_verdict() -> None:
    outcomes = table(uniform=UNIFORM, rho=scaled(0.5, 0.5, 0.02))
    one = judged(outcomes)["rho"]
    assert one.equal_cost is None
    assert (one.equal_steps.verdict, one.verdict) == ("helps", "no evidence")
    assert "no evidence either way for rho (uniform at equal cost was not run)" in say(outcomes, BASELINE)


def test_a_baseline_is_no_method_of_its_own() -> None:
    outcomes = table(uniform=UNIFORM, rho=UNIFORM, uniform_at_cost=STUCK)
    assert list(judged(outcomes)) == ["rho"]


def test_the_target_may_never_be_reached() -> None:
    told = say(table(uniform=UNIFORM, stuck=STUCK))
    assert told.count("no method beats uniform and stuck (never gets there) is worse") == 3
    told = say(table(uniform=STUCK, stuck=STUCK), target=0.99)
    assert "at equal steps the target val/acc 0.99 is never reached by any method; in final test/acc" in told
    told = say(table(uniform=STUCK, rho=UNIFORM))
    assert told.count("rho (which uniform never reaches) beats uniform") == 3


def test_seeds_are_paired() -> None:
    """Shifted by a constant, which the spread over seeds would drown."""
    spread = [(0.1, 100, 1000, 3000), (0.5, 100, 1000, 3000), (0.9, 100, 1000, 3000)]
    shifted = [(final + 0.01 + seed * 1e-4, *rest) for seed, (final, *rest) in enumerate(spread)]
    assert "in final test/acc better (by +0.0101, +0.00985 to +0.0103) beats uniform" in say(
        table(uniform=spread, better=shifted)
    )


def test_only_common_seeds_count() -> None:
    outcomes = table(uniform=UNIFORM, rho=scaled(0.5, 0.5, 0.02), late=scaled(0.5, 0.5, 0.02))
    del outcomes["late"][0], outcomes["late"][1]
    told = say(outcomes)
    assert told.startswith("Verdict (at most 3 paired seeds")
    assert told.count("no evidence either way for late") == 5


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        (table(uniform=UNIFORM), "Verdict: there is none, because it takes finished runs of uniform and something"),
        (table(rho=UNIFORM), "Verdict: there is none, because it takes finished runs of uniform and something"),
        (table(uniform=[], rho=UNIFORM), "Verdict: there is none, because it takes finished runs of uniform"),
        (table(uniform=UNIFORM[:1], rho=UNIFORM[:1]), "no evidence comes from fewer than two paired seeds, got 1."),
    ],
)
def test_there_may_be_no_verdict(outcomes, told) -> None:
    assert told in say(outcomes)


def test_a_method_without_a_finished_run_is_named() -> None:
    told = say(table(uniform=UNIFORM, same=UNIFORM, broken=[]))
    assert told.endswith("; broken finished no run.")
    assert told.count("broken") == 1


def test_without_a_target_only_the_final_metric_counts() -> None:
    told = say(table(uniform=UNIFORM, rho=scaled(1, 3, 0.02)), target=None)
    assert "at equal cost rho (final test/acc by +0.02, +0.0195 to +0.0205) helps; at equal steps in final" in told


def test_lower_may_be_better() -> None:
    told = say(table(uniform=UNIFORM, less=scaled(1, 1, -0.02)), higher=False)
    assert "in final test/acc less (by -0.02, -0.0205 to -0.0195) beats uniform." in told


@pytest.mark.parametrize(
    ("rho", "baseline", "worse"),
    [
        (scaled(2, 2, -0.3), UNIFORM, True),
        (STUCK, UNIFORM, True),
        (scaled(2, 2, -0.3)[:2], UNIFORM, False),  # two seeds are not enough
        (scaled(1, 1, -0.3), UNIFORM, False),  # as fast
        (scaled(2, 2, 0.0), UNIFORM, False),  # as good in the end
        (scaled(2, 2, -0.3), STUCK, False),  # ahead of uniform at equal cost
        (scaled(2, 2, -0.3), [], False),  # which may not have been run
    ],
)
def test_who_is_clearly_worse(rho, baseline, worse) -> None:
    one = judged(table(uniform=UNIFORM, rho=rho, uniform_at_cost=baseline), level=0.99)["rho"]
    assert clearly_worse(one) is worse


def test_the_same_runs_are_listed_once() -> None:
    runs = table(uniform=UNIFORM, rho=scaled(0.5, 1.0, 0.02), uniform_at_cost=scaled(1.0, 1.0, 0.01))
    for baseline, listed in ((BASELINE, ["uniform", BASELINE]), ("uniform", ["uniform"])):
        assert [one.baseline for one in judged(runs, baseline)["rho"].comparisons] == listed
