"""Seeds as jobs of a sweep, and the one table of them all."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_select.app import main
from lightning_select.app.compare.equal_cost import baseline_name
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run, RunLog
from lightning_select.app.compare.sweep import comparisons_in, join_jobs, settle_folder
from tests.app.conftest import TINY, read_csv

HALVED = "{halved:{callbacks/selection:max_loss,callbacks.selection.keep:0.5}}"
SEEDS = ("-m", "task=compare", f"methods=[uniform,{HALVED}]", "seeds=1")
NO_PLOT = "from lightning_select.app import main; import sys; sys.modules['matplotlib.figure'] = None"
SHOWN = {"metric": "val/acc", "mode": "max", "target": None}


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the training."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def without_times(folder: Path) -> list[dict[str, str]]:
    return [run | {"seconds": ""} for run in read_csv(folder / "runs.csv")]


def check(folder: Path, told: str) -> None:
    """Two jobs, of seeds 3 and 4, and their joint table."""
    assert "Joint table of 2 jobs:" in told
    assert "Verdict (2 paired seeds, 95 % intervals" in told.splitlines()[-1]
    runs, name = without_times(folder), "uniform (cost of halved)"
    expected = [(method, seed) for method in ("uniform", "halved", name) for seed in "34"]
    assert [(run["method"], run["seed"]) for run in runs] == expected
    assert sorted(map(repr, runs)) == sorted(repr(run) for job in "01" for run in without_times(folder / job))
    for file in ("table.csv", "curves.csv", "intervals.csv", "compare.html"):
        assert (folder / file).exists()
    assert [row["equal_cost_baseline"] for row in read_csv(folder / "table.csv")] == ["", name, ""]


def test_seeds_may_be_jobs(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # so that what the application sets is unset afterwards
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
    main([*SEEDS, *TINY, *quiet, "seed=3,4", f"hydra.sweep.dir={tmp_path}"])
    check(tmp_path, capsys.readouterr().out)


@pytest.mark.slow
def test_jobs_may_run_side_by_side(tmp_path: Path) -> None:
    """In a fresh process, which starts others."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    overrides = [*SEEDS, *TINY, "seed=3,4", "hydra/launcher=joblib", f"hydra.sweep.dir={tmp_path}"]
    command = [sys.executable, "-c", f"{NO_PLOT}; main({overrides!r})"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seed 4, uniform (cost of halved): test/acc 0." in done.stdout
    assert " (3 of 3 runs)\n" in done.stdout
    assert "run/s" not in done.stderr  # bars of several jobs would write over each other
    check(tmp_path, done.stdout[done.stdout.index("Joint table") :])


def job(folder: Path, runs: list[Run], **trained: Any) -> None:
    folder.mkdir(parents=True)
    settings = {"shown": SHOWN, "methods": {"uniform": trained, "a": trained}}
    (folder / "comparison.json").write_text(json.dumps(settings))
    RunLog(folder, runs)


def runs_of(seed: int, *, cost: int = 300, owner: str = "a") -> list[Run]:
    """Uniform, two methods that are a little better each, and uniform at their cost."""
    curve = (Point(5, 40, 1.0, 0.6, 40), Point(10, 80, 2.0, 0.8 + seed / 100, 80))
    costs = {"uniform": 100, "a": cost, "b": 300, baseline_name(owner): 300}
    return [
        Run(name, seed, final=0.8 + place / 50 + seed**2 / 1000 * place, samples=spent, steps=10, points=curve)
        for place, (name, spent) in enumerate(costs.items())
    ]


def test_jobs_that_trained_in_another_way_are_joined_apart(tmp_path: Path, capsys: Any) -> None:
    for number, (seed, lr) in enumerate([(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]):
        job(tmp_path / str(number), runs_of(seed), lr=lr)
    join_jobs(tmp_path)
    told = capsys.readouterr().out
    assert "Joint table of 2 jobs (0, 2):" in told
    assert "Joint table of 2 jobs (1, 3):" in told
    for number in "01":
        assert [run["seed"] for run in read_csv(tmp_path / f"joint_{number}" / "runs.csv")] == ["0", "1"] * 4


def test_methods_are_compared_with_the_baselines_of_their_own_job(tmp_path: Path) -> None:
    """On seed 1 the methods share the baseline of another name, for a failed first."""
    job(tmp_path / "0", runs_of(0))
    job(tmp_path / "1", [run for run in runs_of(1, owner="b") if run.method != "a"])
    join_jobs(tmp_path)
    rows = {row["method"]: row for row in read_csv(tmp_path / "table.csv")}
    assert rows["a"]["equal_cost_baseline"] == "uniform (cost of a)"
    assert rows["b"]["equal_cost_baseline"] == "uniform (cost of a) or uniform (cost of b)"
    found = [row for row in read_csv(tmp_path / "intervals.csv") if row["method"] == "b"]
    assert {row["seeds"] for row in found} == {"2"}


def test_a_seed_counts_once(tmp_path: Path, capsys: Any) -> None:
    job(tmp_path / "0", runs_of(0) + runs_of(1))
    job(tmp_path / "1", runs_of(1) + runs_of(2))
    join_jobs(tmp_path)
    told = "Notice: 4 runs were done by several jobs and count once. A seed for each job: seed=0,1,2 seeds=1"
    assert told in capsys.readouterr().out
    assert [run["seed"] for run in read_csv(tmp_path / "runs.csv")] == ["0", "1", "2"] * 4


def test_reports_of_the_jobs_are_linked(tmp_path: Path) -> None:
    job(tmp_path / "0", runs_of(0))
    (tmp_path / "0" / "reports" / "a-0").mkdir(parents=True)
    (tmp_path / "0" / "reports" / "a-0" / "report.html").write_text("<p>")
    join_jobs(tmp_path)
    assert '<a href="0/reports/a-0/report.html">a, seed 0</a>' in (tmp_path / "compare.html").read_text("utf-8")


def test_sweeps_of_other_tasks_are_left_alone(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "0").mkdir()
    join_jobs(tmp_path)
    assert capsys.readouterr().out == ""
    assert [file.name for file in tmp_path.iterdir()] == ["0"]


def test_a_sweep_does_not_resume_into_one_folder(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="1"):
        main([*SEEDS, *TINY, "seed=0", f"compare.resume={tmp_path}", f"hydra.sweep.dir={tmp_path / 'out'}"])
    assert "compare.resume must be null in a sweep" in capsys.readouterr().err


def test_the_folder_of_a_sweep_is_known_beforehand() -> None:
    assert settle_folder(["task=compare"]) == (["task=compare"], None)
    given = ["-m", "seed=0,1", "hydra.sweep.dir='a b'"]
    assert settle_folder(given) == (given, Path("a b"))
    computed = ["--multirun", "hydra.sweep.dir=out/${task}"]
    assert settle_folder(computed) == (computed, None)
    arguments, folder = settle_folder(["-m", "seed=0,1"])
    assert arguments == ["-m", "seed=0,1", f"hydra.sweep.dir={folder}"]
    assert folder is not None
    assert folder.parent == Path("outputs/multirun")
    arguments, folder = settle_folder(["seed=0,1", "-m"])
    assert arguments == ["seed=0,1", f"hydra.sweep.dir={folder}", "-m"]


@pytest.mark.parametrize("given", [["~model", "-m"], ["-m", "~model"], ["seed=0,1", "~trainer.max_epochs", "-m"]])
def test_the_folder_stands_beside_what_is_deleted(given: list[str]) -> None:
    """Hydra takes overrides in one piece only."""
    arguments, folder = settle_folder(given)
    (place,) = (place for place, argument in enumerate(given, start=1) if argument.startswith("~"))
    assert arguments == [*given[:place], f"hydra.sweep.dir={folder}", *given[place:]]


@pytest.mark.parametrize(
    ("configured", "expected"), [("my/sweeps", None), ("my/${now:%Y}/a b", 'hydra.sweep.dir="my/{year}/a b"')]
)
@pytest.mark.parametrize("way", [["--config-dir", "c"], ["--config-dir=c"], ["-cd", "c"]])
def test_a_folder_that_a_config_file_names_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: list[str], configured: str, expected: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\nhydra:\n  sweep:\n    dir: {configured}\n"
    (tmp_path / "c" / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    given = ["-m", *way, "experiment=mine", "seed=0,1", "methods=[uniform,uds]", "model._target_=my.M", "model=own"]
    year = f"{datetime.datetime.now():%Y}"
    arguments, folder = settle_folder(given)
    assert folder == Path(configured.replace("${now:%Y}", year))
    assert arguments == given + ([] if expected is None else [expected.format(year=year)])


def test_a_sweep_writes_and_joins_where_the_config_says(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  sweep:\n    dir: my sweeps/${now:%Y}\n"
    (tmp_path / "c" / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
    main(["experiment=mine", *SEEDS[1:], *TINY, *quiet, "seed=3,4", "--config-dir=c", "-m"])  # flags may come last
    (folder,) = (tmp_path / "my sweeps").iterdir()
    check(folder, capsys.readouterr().out)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "shown",
    [
        SHOWN | {"extra": 1},
        {"mode": "max"},
        SHOWN | {"mode": "most"},
        SHOWN | {"target": "0.5"},
        SHOWN | {"target": 10**400},
        SHOWN | {"final_mode": 1},
        SHOWN | {"metric": None},
        ["metric"],
    ],
)
def test_a_damaged_job_is_told_and_left_out(tmp_path: Path, capsys: Any, shown: Any) -> None:
    job(tmp_path / "0", runs_of(0))
    job(tmp_path / "1", runs_of(1))
    file = tmp_path / "0" / "comparison.json"
    file.write_text(json.dumps({"shown": shown, "methods": {"uniform": {}, "a": {}}}))
    join_jobs(tmp_path)
    told = capsys.readouterr()
    assert f"{tmp_path / '0'} was not joined: {file} must be what a comparison wrote, got " in told.err
    assert "Joint table of 1 job:" in told.out
    assert [run["seed"] for run in read_csv(tmp_path / "runs.csv")] == ["1"] * 4


def test_only_jobs_of_the_sweep_are_joined(tmp_path: Path, capsys: Any) -> None:
    """Others lie in the same folder; among the numbered ones those that trained the same are from the same sweep."""
    job(tmp_path / "0", runs_of(0), lr=0.1)
    job(tmp_path / "1", runs_of(1), lr=0.1)
    job(tmp_path / "2", runs_of(2), lr=0.2)
    job(tmp_path / "compare" / "2026-01-01", runs_of(3), lr=0.1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "comparison.json").write_text("{")
    before = comparisons_in(tmp_path)
    join_jobs(tmp_path, before)
    told = capsys.readouterr()
    assert told.out == ""
    assert not (tmp_path / "compare.html").exists()
    started = (tmp_path / "1" / "comparison.json").read_text()
    (tmp_path / "1" / "comparison.json").unlink()
    (tmp_path / "1" / "comparison.json").write_text(started)
    join_jobs(tmp_path, before)
    assert "Joint table of 2 jobs:" in capsys.readouterr().out
    assert [run["seed"] for run in read_csv(tmp_path / "runs.csv")] == ["0", "1"] * 4


def test_a_job_that_fails_leaves_the_table_of_the_others(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
    with pytest.raises(SystemExit, match="1"):
        main([*SEEDS, *TINY, *quiet, "seed=3,-4", f"hydra.sweep.dir={tmp_path}"])
    told = capsys.readouterr()
    assert "seed must be a whole number" in told.err
    assert "Joint table of 1 job:" in told.out
    assert (tmp_path / "compare.html").exists()
