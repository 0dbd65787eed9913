from __future__ import annotations

import math

import pytest

from lightning_select.app.compare.judgement import judge
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.summary import alike, outcomes_of, reached, summarise, target_of
from lightning_select.app.compare.table import format_table


def curve(*values: float) -> tuple[Point, ...]:
    return tuple(Point(10 * at, 100 * at, float(at), value) for at, value in enumerate(values, start=1))


def run(method: str, seed: int, *values: float, **kwargs) -> Run:
    settings = {
        "final": values[-1],
        "points": curve(*values),
        "samples": 100,
        "rows_per_step": 8.0,
        "seconds": 2.0,
    } | kwargs
    return Run(method, seed, **settings)


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.9, 0.9, 0.9], 10),
        ([0.1, 0.95, 0.2, 0.1], None),  # one lucky evaluation is not enough
        ([0.6, 0.9, 0.9, 0.9], 30),  # mean of .6, .9, .9 is .8
        ([0.5, 0.7, 1.2, 1.2], 25),  # means .5, .6, .8; the target is .7
        ([0.1, 0.2, 0.3], None),
        ([], None),
    ],
)
def test_the_target_is_reached_where_the_mean_of_three_evaluations_crosses_it(values, step) -> None:
    target = 0.7 if step == 25 else 0.8
    took = reached(curve(*values), target - 1e-9, higher=True)
    if step is None:
        assert took is None
    else:
        assert took == pytest.approx((step, 10 * step, 10 * step, step / 10))


def test_the_target_may_be_a_low_value() -> None:
    """The means are 3, 2, 1.4667 and .5667."""
    steps, *_ = reached(curve(3.0, 1.0, 0.4, 0.3), 0.6, higher=False)
    assert steps == pytest.approx(30 + 10 * (4.4 / 3 - 0.6) / (4.4 / 3 - 1.7 / 3))


def test_who_is_there_at_the_first_evaluation_may_have_been_earlier() -> None:
    runs = [run("uniform", 0, 0.9, 0.9), run("uniform", 1, 0.7, 0.9), run("uniform", 2, 0.1)]
    early = [outcome.early for outcome in outcomes_of(runs, 0.8, higher=True)["uniform"].values()]
    assert early == [True, False, False]


@pytest.mark.parametrize(("higher", "target"), [(True, 0.76), (False, 0.84)])
def test_the_default_target_is_five_percent_short_of_the_end_of_uniform(higher, target) -> None:
    runs = [run("uniform", 0, 0.1, 0.7), run("uniform", 1, 0.1, 0.9), run("rho", 0, 0.1, 0.99)]
    assert target_of(runs, None, higher=higher) == pytest.approx(target)
    assert target_of(runs, 0.5, higher=higher) == 0.5
    assert target_of(runs[2:], None, higher=higher) is None


def test_the_default_target_of_a_negative_metric_is_short_of_it_too() -> None:
    assert target_of([run("uniform", 0, -2.0)], None, higher=True) == pytest.approx(-2.1)


def test_a_run_without_a_curve_has_no_end_of_it() -> None:
    runs = [run("uniform", 0, 0.5, final_metric="test"), Run("rho", 0, final=0.4, final_metric="val")]
    assert alike(runs, "val") == (
        [run("uniform", 0, 0.5, final_metric="val"), Run("rho", 0, final_metric="val")],
        "val",
    )
    assert outcomes_of(alike(runs, "val")[0], 0.5, higher=True)["rho"] == {}


def test_finals_of_one_kind_stay() -> None:
    runs = [run("uniform", 0, 0.5, final=0.7, final_metric="test"), Run("rho", 0, error="RuntimeError: no")]
    assert alike(runs, "val") == (runs, "test")
    assert alike(runs[1:], "val") == (runs[1:], "val")


def test_finals_of_two_kinds_become_the_ends_of_the_curves() -> None:
    runs = [
        run("uniform", 0, 0.4, 0.5, final=0.7, final_metric="test"),
        run("rho", 0, 0.6, final_metric="val"),
        Run("uds", 0, error="RuntimeError: no"),
    ]
    same, name = alike(runs, "val")
    assert [one.final for one in same] == [0.5, 0.6, None]
    assert name == "val"


def test_failed_runs_have_no_outcome() -> None:
    runs = [
        run("uniform", 0, 0.9),
        Run("uniform", 1, error="RuntimeError: no"),
        Run("rho", 0, error="RuntimeError: no"),
    ]
    outcomes = outcomes_of(runs, 0.8, higher=True)
    assert list(outcomes) == ["uniform", "rho"]
    assert outcomes["uniform"].keys() == {0}
    assert not outcomes["rho"]


def test_the_numbers_of_a_line() -> None:
    runs = [
        run("rho", 0, 0.9, 0.9, flagged_share=0.1),
        run("rho", 1, 0.1, 0.1, 0.7, flagged_share=0.3),
        run("rho", 2, 0.2, 0.85, 0.85, 0.8, 0.8),
        Run("rho", 3, error="RuntimeError: no"),
    ]
    (line,) = summarise(runs, 0.8, higher=True)
    assert (line.runs, line.reached, line.failed) == (3, 2, ("RuntimeError: no",))
    assert line.final_mean == pytest.approx(0.8)
    assert line.final_sd == pytest.approx(0.1)
    assert (line.steps_to_target, line.samples_to_target) == pytest.approx((115 / 3, 1150 / 3))  # 10, that and never
    assert line.flagged_share == pytest.approx(0.2)
    assert (line.rows_per_step, line.seconds) == (8.0, 2.0)


def test_half_of_the_runs_must_reach_the_target() -> None:
    (line,) = summarise([run("rho", 0, 0.9), run("rho", 1, 0.1)], 0.8, higher=True)
    assert line.steps_to_target == math.inf


def test_the_table() -> None:
    runs = [
        *(run("uniform", seed, 0.9, 0.8 + 0.1 * seed, flagged_share=0.2) for seed in range(3)),
        *(run("rho", seed, *([0.9] * (seed + 1) if seed else [0.1])) for seed in range(3)),
        *(run("uds", seed, 0.1) for seed in range(3)),
        Run("broken", 0, error="RuntimeError: no"),
    ]
    outcomes = outcomes_of(runs, 0.8, higher=True)
    partners = {"rho": dict.fromkeys(range(3), "uniform"), "uds": dict.fromkeys(range(3), "uniform (cost of uds)")}
    judgements = judge(outcomes, partners, target=0.8, higher=True)
    names = {"metric": "val/acc", "final_metric": "test/acc", "target": 0.8}
    notes = {"uds": "stopped after 3 seeds"}
    told = format_table(summarise(runs, 0.8, higher=True), judgements, notes, **names)
    cells = [line.split("  ") for line in told.splitlines()]
    rows = {line[0]: [cell.strip() for cell in line[1:] if cell] for line in cells}
    assert rows["method"] == [
        *("test/acc", "steps to val/acc 0.8", "samples to val/acc 0.8", "rows/step", "flipped kept", "cost", "seconds"),
        *("at equal steps", "at equal cost"),
    ]
    assert rows["uniform"] == ["0.9000 ± 0.1000", "10", "100", "8.0", "20.0%", "1.00x", "2.0", "-", "-"]
    assert rows["rho"][:4] == ["0.6333 ± 0.4619", "10 (2/3)", "100 (2/3)", "8.0"]
    assert rows["rho"][4:] == ["-", "1.00x", "2.0", "no evidence", "no evidence"]
    assert rows["uds"] == ["0.1000 ± 0.0000", "never", "never", "8.0", "-", "1.00x", "2.0", "hurts", "-"]
    assert rows["broken"] == ["failed", *["-"] * 8]
    assert told.splitlines()[-2:] == ["broken failed in 1 run: RuntimeError: no", "uds stopped after 3 seeds"]


def test_without_a_target_the_columns_stay_empty() -> None:
    names = {"metric": "m", "final_metric": "f", "target": None}
    told = format_table(summarise([run("rho", 0, 0.9)], None, higher=True), [], {}, **names)
    assert told.splitlines()[2].split() == ["rho", "0.9000", "-", "-", "8.0", "-", "-", "2.0", "-", "-"]
