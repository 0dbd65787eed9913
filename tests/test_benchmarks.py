"""The benchmarks run, say how they ended, and fail when a bar is missed. Their figures are not judged here."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "benchmarks"
CPPRB = importlib.util.find_spec("cpprb") is not None
"""Is the library there that `draws` compares with? It is no dependency of ours, not even of the tests."""
CLEANLAB = importlib.util.find_spec("cleanlab") is not None
"""The same for `mislabelled`."""

RECORD = {"benchmark", "fast", "date", "device", "versions", "seconds", "figures", "bars", "holds"}

pytestmark = [
    pytest.mark.repository,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the examples are not part of an installed package"),
    # What beartype has to say on annotations from omegaconf, when a test is the first to import the application.
    pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.*deprecated"),
]


LONG = pytest.mark.slow
"""Of those that take more than ten seconds with ``--fast`` too."""


@pytest.fixture
def common(load: Any) -> ModuleType:
    return load("common")


@pytest.mark.parametrize(
    ("name", "bars", "figures"),
    [
        pytest.param(
            "beds",
            6,
            {
                "T-REG, clean",
                "T-REG, 5 % outliers",
                "T-BATCH, clean",
                "T-BATCH, clean, at equal rows",
                "T-BATCH, 30 % wrong labels",
                "T-BATCH, 30 % wrong labels, at equal rows",
            },
            marks=LONG,
        ),
        ("overhead", 4, {0, 1, 2, 3, 4, 5, 6}),
        ("history", 2, {"steps", "added waits"}),
        (
            "rlvr_bed",
            5,
            {
                "uniform",
                "zero variance, refill",
                "balanced [.25, .75], refill",
                "vade",
                "mopps",
                "mopps, of all prompts",
                "spo",
            },
        ),
        ("draws", 4, set(range(21 if CPPRB else 15))),
        ("divbs", 3, set(range(12))),
        pytest.param("uds_scoring", 2, {"scoring", "difference", "steps"}, marks=LONG),
        pytest.param("uds_sft", 2, {"made up, 8 of 32", "made up, 4 of 32"}, marks=LONG),
        pytest.param("peer_review", 3, {"sweeps", "settings", "rows", "peer review ahead of"}, marks=LONG),
        pytest.param("grpo", 3, {"tuning", "methods", "curves"}, marks=LONG),
        pytest.param("filter_cost", 2, {0, 1, 2, 3}, marks=LONG),
        pytest.param(
            "lm_reweighting",
            4,
            {f"a made-up grammar, {kind}" for kind in ("redundant", "corrupted", "clean")},
            marks=LONG,
        ),
        pytest.param("time_to_accuracy", 5, {"digits, redundant and noisy", "digits"}, marks=LONG),
        pytest.param("mislabelled", 3 if CLEANLAB else 2, {"found"}, marks=LONG),
        pytest.param("soak", 10, {"rows", "ratios", "history", "course"}, marks=LONG),
    ],
)
def test_a_fast_run_ends_with_a_verdict(name: str, bars: int, figures: set[Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.json"
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--fast", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    last = done.stdout.splitlines()[-1]
    record = json.loads(path.read_text())
    assert set(record) == RECORD
    assert record["benchmark"] == name
    assert record["fast"] is True
    assert record["holds"] is (done.returncode == 0)
    assert len(record["bars"]) == bars
    found = record["figures"]
    assert set(found if isinstance(found, dict) else range(len(found))) == figures
    assert last.startswith(f"verdict: {name} {'HOLDS' if record['holds'] else 'FAILS'}")
    for bar in record["bars"]:
        assert f"{bar['name']} {bar['value']:.4g}" in last
        never = name in (
            "grpo",
            "lm_reweighting",
            "time_to_accuracy",
        )  # a method may not get there, all the more so in a fast run
        assert math.isfinite(bar["value"]) or (not CPPRB and "cpprb" in bar["name"]) or never


@pytest.mark.parametrize(
    ("rule", "below", "same", "above"),
    [
        ("at most", True, True, False),
        ("below", True, False, False),
        ("at least", False, True, True),
        ("above", False, False, True),
    ],
)
def test_a_bar_holds_by_its_rule(common: ModuleType, rule: str, below: bool, same: bool, above: bool) -> None:
    held = [common.Bar("figure", value, rule, 1.0).holds for value in (0.9, 1.0, 1.1, math.nan)]
    assert held == [below, same, above, False]


@pytest.mark.parametrize(
    ("values", "status", "ending"),
    [
        ([1.0, 1.1], 0, "verdict: paint HOLDS: a 1 (at most 1.1); b 1.1 (at most 1.1)"),
        ([1.0, 1.2], 1, "verdict: paint FAILS: a 1 (at most 1.1); b 1.2 (at most 1.1: MISSED)"),
        ([math.nan, 1.0], 1, "verdict: paint FAILS: a nan (at most 1.1: MISSED); b 1 (at most 1.1)"),
        ([], 1, "verdict: paint FAILS: "),
    ],
)
def test_exit_status_is_zero_only_if_every_bar_holds(
    common: ModuleType,
    values: list[float],
    status: int,
    ending: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bars = [common.Bar(name, value, "at most", 1.1) for name, value in zip("ab", values, strict=False)]
    asked = argparse.Namespace(fast=False, json=tmp_path / "record.json")
    assert common.finish("paint", {"dry": 1}, bars, asked, 0.1) == status
    assert capsys.readouterr().out.splitlines()[-1] == ending
    record = json.loads(asked.json.read_text())
    assert record["holds"] is (status == 0)
    assert [bar["holds"] for bar in record["bars"]] == [not value > 1.1 and value == value for value in values]


def test_bars_are_those_of_the_issue(load: Any) -> None:
    t_reg, t_batch, arms = load("t_reg"), load("t_batch"), load("arms")
    outcome = load("fits").Outcome({100: 1.0, 400: 1.0}, {}, {}, 0.0)
    reg = {method: [outcome] for method in (t_reg.UNIFORM, t_reg.LINUPPER, t_reg.CLIPPED)}
    batch = {method: [outcome] for method in (t_batch.UNIFORM, t_batch.RHO, t_batch.MAX_LOSS)}
    limits = [(bar.rule, bar.limit) for bar in (*t_reg.bars(reg, reg), *t_batch.bars(batch))]
    assert limits == [
        ("below", 0.02),
        ("above", 1.0),
        ("at most", 0.2),
        ("at most", 0.8),
        ("at least", 0.15),
        ("below", 0.0),
    ]
    assert sorted(arms.LIMITS.values()) == [1.02, 1.02, 1.05, 1.10]


def test_figures_are_compared_seed_by_seed(load: Any) -> None:
    fits = load("fits")

    def outcomes(*figures: float) -> list[Any]:
        return [fits.Outcome({5: figure}, {}, {}, 0.0) for figure in figures]

    assert fits.share(outcomes(1, 2, 4), outcomes(2, 4, 8)) == fits.Spread(0.5, 0.5, 0.5)
    # The ratio of the medians would be 3 here.
    assert fits.share(outcomes(1, 9, 16), outcomes(1, 9, 3)).median == 1.0
    assert fits.lead(outcomes(3, 5, 10), 5, outcomes(1, 4, 4)) == fits.Spread(2, 1, 6)
    assert fits.Spread.of([math.nan, 1.0, 2.0]) == fits.Spread(2.0, 1.0, math.inf)


def test_beds_are_as_described(load: Any) -> None:
    reg = load("t_reg").regression_data(0, outliers=True)
    x, y, corrupted = reg.train.columns
    first, second = x[:, :25].square().sum(1), x[:, 25:].square().sum(1)
    assert x.shape == (4096, 50)
    assert float((second > first).float().mean()) == pytest.approx(0.05, abs=0.01)
    assert float(torch.minimum(first, second).sum() / (first + second).sum()) < 0.003
    assert int(corrupted.sum()) == 205
    truth = torch.linalg.lstsq(x[~corrupted], y[~corrupted]).solution
    assert float((x @ truth - y)[corrupted].std()) == pytest.approx(20, rel=0.15)
    test_x, test_y = reg.test.columns
    torch.testing.assert_close(test_x @ truth, test_y, atol=1e-3, rtol=0)
    assert float((test_x[:, 25:].square().sum(1) > test_x[:, :25].square().sum(1)).float().mean()) == pytest.approx(
        0.5, abs=0.03
    )

    clean, noisy = (load("t_batch").mode_data(0, noise) for noise in (0.0, 0.3))
    wrong = clean.train.columns[1] != noisy.train.columns[1]
    assert torch.equal(wrong, noisy.train.columns[2])
    assert torch.equal(clean.test.columns[1], noisy.test.columns[1])
    assert clean.train.columns[0].shape == (12_000, 32)
    assert float(wrong.float().mean()) == pytest.approx(0.3, abs=0.02)


def test_one_cadence_has_one_step_at_which_loggers_are_due(load: Any) -> None:
    arms = load("arms")
    # Two steps warm up, three count, then: due, after it, end of the epoch.
    seconds = [9.0, 9.0, 1.0, 2.0, 3.0, 12.0, 42.0, 99.0]
    stamps = [sum(seconds[: number + 1]) for number in range(len(seconds))]
    turn = arms.Turn.of(stamps, warm_up=2)
    assert turn.median == 2.0
    assert turn.cadence == pytest.approx((48 * 2 + 12 + 42) / 50)


@pytest.mark.parametrize("target", [0.005, 0.05])
def test_widths_are_found_to_four_percent(load: Any, target: float) -> None:
    overhead, arms = load("overhead"), load("arms")

    def seconds(width: int) -> float:
        return 6e-4 + 3e-8 * width**2

    def arm(width: int, warm_up: int, count: int) -> Any:
        return arms.Turn(seconds(width), seconds(width))

    assert seconds(overhead.calibrate(arm, target, overhead.Plan())) == pytest.approx(target, rel=0.04)


def test_a_soak_fails_by_a_leak_a_slower_end_and_a_wrong_count(load: Any) -> None:
    soak = load("soak")

    def missed(found: int = 0, **end: float) -> list[str]:
        steady = {"wall": 2.0, "processor": 2.0, "fresh": 1.0, "megabytes": 400.0, "files": 6, "threads": 1}
        readings = [soak.Reading(step=step, **(steady | (end if step > 18 else {}))) for step in range(1, 21)]
        return [bar.name.split(",")[0] for bar in soak.bars(readings, {"rows": found}) if not bar.holds]

    assert missed() == []
    assert missed(megabytes=407.0) == []
    assert missed(megabytes=409.0) == ["memory"]
    assert missed(files=7) == ["open files more"]
    assert missed(threads=2) == ["threads more"]
    assert missed(processor=2.05) == []
    assert missed(processor=2.2) == missed(processor=1.8) == ["pace"]
    assert missed(processor=3.0, fresh=1.5) == [], "a busy machine is no slower fit"
    assert missed(found=1) == ["rows"]
