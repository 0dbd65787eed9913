"""Every rule of the verdict, on made-up tables."""

from __future__ import annotations

import math
import statistics

import pytest

from lightning_select.app.summary import Outcome
from lightning_select.app.verdict import compare_finals, compare_ratios, verdict

NEVER = math.inf


def table(**methods: list[tuple[float, float, float]]) -> dict[str, dict[int, Outcome]]:
    """Outcomes (final, steps, samples) of seeds 0, 1, ..."""
    return {name: {seed: Outcome(*map(float, run)) for seed, run in enumerate(runs)} for name, runs in methods.items()}


def say(outcomes: dict[str, dict[int, Outcome]], **kwargs) -> str:
    settings = {"target": 0.9, "metric": "val/acc", "final_metric": "test/acc", "higher": True} | kwargs
    return verdict(outcomes, **settings)


UNIFORM = [(0.90, 100, 1000), (0.91, 110, 1100), (0.92, 120, 1200)]


def scaled(steps: float, samples: float, final: float) -> list[tuple[float, float, float]]:
    """Uniform's runs times and plus something, which varies a little from seed to seed."""
    wobble = (0.99, 1.0, 1.01)
    return [(f + final * w, s * steps ** (w**2), n * samples**w) for (f, s, n), w in zip(UNIFORM, wobble, strict=True)]


def test_a_method_may_win_per_step_and_lose_per_sample() -> None:
    told = say(table(uniform=UNIFORM, rho=scaled(0.5, 3.0, 0.02), other=UNIFORM))
    assert told.startswith(
        "Verdict (3 paired seeds, 95 % intervals): per step (to val/acc 0.9) rho (0.50 times its steps, "
    )
    assert ") beats uniform and there is no evidence either way for other; " in told
    assert "per sample (to val/acc 0.9) no method beats uniform, rho (3.00 times its samples, " in told
    assert ") is worse and there is no evidence either way for other; " in told
    assert "in final test/acc rho (by +0.02, +0.0" in told
    assert told.count("Verdict") == 1
    assert told.endswith(".")
    assert "\n" not in told


def test_several_winners_are_listed() -> None:
    told = say(table(uniform=UNIFORM, a=scaled(0.5, 0.5, 0.02), b=scaled(0.7, 0.7, -0.02), c=scaled(0.6, 0.6, -0.02)))
    assert "), b (0.70 times its steps, " in told
    assert ") and c (0.60 times its steps, " in told
    assert ") beat uniform; per sample" in told
    assert "in final test/acc a (by +0.02, +0.0195 to +0.0205) beats uniform and b (by -0.02, " in told
    assert ") are worse." in told


def test_an_interval_that_covers_no_difference_is_no_evidence() -> None:
    noisy = [(0.95, 50, 500), (0.85, 200, 3000), (0.92, 100, 900)]
    told = say(table(uniform=UNIFORM, noisy=noisy))
    assert told.count("no method beats uniform and there is no evidence either way for noisy") == 3


def test_the_target_may_never_be_reached_by_a_method() -> None:
    told = say(table(uniform=UNIFORM, stuck=[(0.5, NEVER, NEVER)] * 3))
    assert told.count("no method beats uniform and stuck never gets there") == 2
    told = say(table(uniform=UNIFORM, stuck=[(0.5, NEVER, NEVER)] * 3, lost=[(0.5, NEVER, NEVER)] * 3))
    assert told.count("stuck and lost never get there") == 2


def test_the_target_may_never_be_reached_by_anyone() -> None:
    told = say(table(uniform=[(0.9, NEVER, NEVER)] * 3, same=[(0.9, NEVER, NEVER)] * 3), target=0.99)
    assert "the target val/acc 0.99 is never reached by any method; in final test/acc" in told
    assert "per step" not in told


def test_the_target_may_be_reached_by_the_method_only() -> None:
    told = say(table(uniform=[(0.9, NEVER, NEVER)] * 3, rho=UNIFORM))
    assert told.count("rho (which uniform never reaches) beats uniform") == 2


@pytest.mark.parametrize("who", ["uniform", "rho"])
def test_a_target_reached_in_some_runs_only_is_no_evidence(who) -> None:
    runs = {"uniform": UNIFORM, "rho": scaled(0.5, 0.5, 0)}
    runs[who] = [*runs[who][:2], (0.9, NEVER, NEVER)]
    assert say(table(**runs)).count("there is no evidence either way for rho") == 3


def test_seeds_are_paired() -> None:
    """Shifted by a constant, which the spread over seeds would drown."""
    spread = [(0.1, 100, 1000), (0.5, 100, 1000), (0.9, 100, 1000)]
    shifted = [(final + 0.01 + seed * 1e-4, 100, 1000) for seed, (final, _, _) in enumerate(spread)]
    assert "in final test/acc better (by +0.0101, +0.00985 to +0.0103) beats uniform" in say(
        table(uniform=spread, better=shifted)
    )


def test_only_common_seeds_count() -> None:
    outcomes = table(uniform=UNIFORM, rho=scaled(0.5, 0.5, 0.02), late=scaled(0.5, 0.5, 0.02))
    del outcomes["late"][0], outcomes["late"][1]
    told = say(outcomes)
    assert told.startswith("Verdict (at most 3 paired seeds")
    assert told.count("no evidence either way for late") == 3


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
    told = say(table(uniform=UNIFORM, rho=scaled(1, 1, 0.02)), target=None)
    assert told.startswith("Verdict (3 paired seeds, 95 % intervals): in final test/acc rho (by +0.02, ")


def test_lower_may_be_better() -> None:
    told = say(table(uniform=UNIFORM, less=scaled(1, 1, -0.02)), higher=False)
    assert "in final test/acc less (by -0.02, -0.0205 to -0.0195) beats uniform." in told


@pytest.mark.parametrize(("runs", "quantile"), [(2, 12.706), (3, 4.303), (21, 2.086), (101, 1.984)])
def test_the_interval_is_students(runs, quantile) -> None:
    """Just inside and just outside of t times the standard error; quantiles from a printed table."""
    noise = [(-1) ** seed * (1 + seed) for seed in range(runs)]
    noise = [value - statistics.fmean(noise) for value in noise]
    half = quantile * statistics.stdev(noise) / math.sqrt(runs)
    for factor, kind in ((0.99, "unclear"), (1.01, "better")):
        pairs = [(factor * half + value, 0.0) for value in noise]
        assert compare_finals(pairs, higher=True).kind == kind
        ratios = [(math.exp((-factor * half - value) / 100), 1.0) for value in noise]
        assert compare_ratios(ratios, "times").kind == kind


def test_equal_runs_are_no_evidence() -> None:
    assert compare_finals([(0.9, 0.9)] * 3, higher=True).kind == "unclear"
    assert compare_ratios([(100.0, 100.0)] * 3, "times").kind == "unclear"
