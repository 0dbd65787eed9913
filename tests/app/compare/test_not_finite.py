"""Metrics that are no numbers: a run that diverged is told of, and spoils nothing that the others say."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from lightning_select.app.compare.curves_svg import HEIGHT, WIDTH, legend_of, panels_of
from lightning_select.app.compare.findings import compare_finals
from lightning_select.app.compare.plot import plot_curves
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.reporting import Settings, report
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.summary import outcomes_of, reached, summarise, target_of
from tests.app.conftest import read_csv

NAN, INF = math.nan, math.inf


def curve(*values: float) -> tuple[Point, ...]:
    return tuple(Point(10 * at, 100 * at, float(at), value, 100 * at) for at, value in enumerate(values, start=1))


def run(method: str, seed: int, *values: float) -> Run:
    return Run(method, seed, final=values[-1], final_metric="val/acc", samples=100, points=curve(*values), steps=30)


RUNS = [
    *(run("uniform", seed, 0.5, 0.6, value) for seed, value in enumerate((0.6, NAN, 0.8))),
    *(run("odd", seed, 0.5, 0.6, value) for seed, value in enumerate((0.6, 0.7, INF))),
    *(run("gone", seed, NAN, NAN, NAN) for seed in range(3)),
]


def test_only_finite_values_enter_means_and_targets() -> None:
    uniform, odd, gone = summarise(RUNS, 0.4, higher=True)
    assert (uniform.final_mean, uniform.final_sd) == pytest.approx((0.7, 0.02**0.5))
    assert (odd.final_mean, odd.final_sd) == pytest.approx((0.65, 0.005**0.5))
    assert (gone.final_mean, gone.final_sd, gone.steps_to_target) == (None, None, INF)
    assert [line.not_finite for line in (uniform, odd, gone)] == [1, 1, 3]
    assert target_of(RUNS, None, higher=True) == pytest.approx(0.95 * 0.7)
    assert target_of([*RUNS[6:], run("uniform", 5, NAN)], None, higher=True) is None


def test_a_target_is_not_reached_by_way_of_what_is_no_number() -> None:
    assert reached(curve(NAN, NAN, NAN), 0.5, higher=True) is None
    assert reached(curve(0.1, INF, 0.1, 0.1), 0.5, higher=True) is None
    took = reached(curve(0.1, NAN, 0.6, 0.6, 0.6, 0.9), 0.5, higher=True)
    assert took is not None
    assert took[0] == 50  # the first evaluation whose three are numbers; how far before it, nobody knows
    assert outcomes_of([run("uniform", 0, NAN, 0.9)], 0.5, higher=True)["uniform"][0].steps == INF


@pytest.mark.parametrize(
    ("pairs", "kind", "numbers"),
    [
        ([(NAN, 0.5)] * 3, "worse", "not finite in 3 of 3 runs, uniform's in 0"),
        ([(0.5, -INF)] * 3, "better", "not finite in 0 of 3 runs, uniform's in 3"),
        ([(NAN, 0.5)] * 2, "unclear", "not finite in 2 of 2 runs, uniform's in 0"),
        ([(0.9, 0.5), (NAN, 0.5), (0.91, 0.5)], "unclear", "not finite in 1 of 3 runs, uniform's in 0"),
        ([(NAN, NAN)] * 3, "unclear", "not finite in 3 of 3 runs, uniform's in 3"),
    ],
)
@pytest.mark.parametrize("higher", [True, False])
def test_who_always_diverges_is_worse_and_who_sometimes_does_is_not_judged(
    pairs: Any, kind: str, numbers: str, higher: bool
) -> None:
    finding = compare_finals(pairs, higher=higher)
    assert (finding.kind, finding.numbers, finding.interval) == (kind, numbers, None)


def test_curves_are_drawn_without_it(tmp_path: Path) -> None:
    strange = [*RUNS, run("large", 0, 1e308, -1e308, 0.5)]
    for target in (None, 0.5, NAN):
        panels = panels_of(strange, target)
        places = [pair.split(",") for panel in panels for one in panel.traces for pair in one.points.split()]
        assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in places)
        assert all(one.points for panel in panels for one in panel.traces)
        assert (panels[0].target is None) is (target != 0.5)
    means = [trace for trace in panels_of(RUNS[:3], None)[0].traces if trace.mean]
    assert len(means[0].points.split()) == 2  # at the third evaluation one of three is missing
    assert list(legend_of(strange)) == ["uniform", "odd", "large"]
    assert panels_of(RUNS[6:], 0.5) == []
    pytest.importorskip("matplotlib")
    plot_curves([*RUNS, run("odd", 4, 0.5, -INF, -INF)], tmp_path / "plot.png", metric="val/acc", target=0.5)
    assert not plot_curves(RUNS[6:], tmp_path / "none.png", metric="val/acc", target=0.5)


def test_the_whole_report_is_written_and_says_so(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report(RUNS, Settings("val/acc", "max", None), tmp_path)
    told = capsys.readouterr()
    assert not told.err
    assert "0.7000 ± 0.1414 (1 of 3 not finite)" in told.out
    assert "- (3 of 3 not finite)" in told.out
    assert "gone ended at no finite val/acc in 3 of 3 runs, which enter no mean and no interval" in told.out
    odd = "the final val/acc is not finite in some runs, of uniform in 1 of 3, odd in 1 of 3 and gone in 3 of 3"
    assert odd in told.out.splitlines()[-1]
    assert "(1 of 3 not finite)" in (tmp_path / "compare.html").read_text(encoding="utf-8")
    rows = read_csv(tmp_path / "table.csv")
    assert [row["not_finite"] for row in rows] == ["1", "1", "3"]
    assert rows[2]["final_mean"] == ""
    assert float(rows[0]["target"]) == pytest.approx(0.95 * 0.7)


def test_values_too_large_for_a_mean_are_as_good_as_infinite(tmp_path: Path, capsys: Any) -> None:
    """Three of 1e308 have no sum."""
    pytest.importorskip("matplotlib")
    runs = [run(method, seed, 1e308, 1e308, 1e308 - seed) for method in ("uniform", "gone") for seed in range(3)]
    runs += [run("fine", seed, 3.0, 2.0, 1.0 + seed) for seed in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        report(runs, Settings("val/acc", "min", None), tmp_path)
    told = capsys.readouterr()
    assert not told.err
    assert "- (3 of 3 not finite)" in told.out
    assert {file.name for file in tmp_path.iterdir()} >= {"table.csv", "intervals.csv", "compare.html", "compare.png"}
    uniform, gone, fine = read_csv(tmp_path / "table.csv")
    assert (uniform["not_finite"], gone["not_finite"], fine["not_finite"]) == ("3", "3", "0")
    assert fine["at_equal_steps"] == "helps"
    assert reached(curve(1e308, 1e308, 1e308, 2.0, 2.0, 2.0), 2.0, higher=False)[0] == 60
