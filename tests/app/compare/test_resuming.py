"""A comparison goes on where it stopped; killed ones are in test_compare_kill."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_select.app.compare import comparison as module
from lightning_select.app.compare import runs as writing
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run, RunLog, read_runs
from lightning_select.errors import ConfigurationError
from tests.app import tiny
from tests.app.conftest import read_csv

CURVE = (Point(2, 16, 0.125, 1 / 3, 16), Point(4, 32, 0.25, float("nan"), 32))
RUNS = [
    Run(
        "uniform", 0, final=0.1 + 0.2, final_metric="test/acc", steps=4, batches=4, samples=32, trained=32, points=CURVE
    ),
    Run('a "b", c', 0, error="RuntimeError: it, too", flagged_share=0.25, train_rows=96, drawn="3 1", validated="x"),
    Run("uniform", 1, final=-1e-9, flagged_share=None, seconds=0.1, points=CURVE[:1]),
]
SHORT = ("task=compare", "methods=[uniform,dynamic_loss]", "seeds=2", "compare.target=0.3", "compare.equal_cost=false")


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the training."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for run in RUNS:
        log.add(run)
    assert repr(read_runs(tmp_path)) == repr(RUNS)
    again = tmp_path / "again"
    again.mkdir()
    RunLog(again, RUNS)
    assert (again / "runs.csv").read_bytes() == (tmp_path / "runs.csv").read_bytes()
    assert (again / "curves.csv").read_bytes() == (tmp_path / "curves.csv").read_bytes()


def test_a_kill_at_any_byte_leaves_the_runs_before(tmp_path: Path) -> None:
    """Cut off wherever: a run counts if its line is whole, and its curve is then the one it had."""
    RunLog(tmp_path, RUNS)
    whole = (tmp_path / "runs.csv").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "runs.csv").write_bytes(whole[:length])
        lines = whole[:length].count(b"\n")
        assert repr(read_runs(tmp_path)) == repr(RUNS[: max(0, lines - 1)])


def test_a_curve_without_a_run_is_not_counted_twice(tmp_path: Path) -> None:
    RunLog(tmp_path, RUNS[:1])
    curves = (tmp_path / "curves.csv").read_bytes()
    (tmp_path / "curves.csv").write_bytes(curves + curves.partition(b"\n")[2] + b"uniform,0,2")
    (run,) = read_runs(tmp_path)
    assert len(run.points) == 2


def test_a_run_that_lost_a_part_of_its_curve_did_not_finish(tmp_path: Path) -> None:
    """Cut off wherever; the run that failed has no curve to lose."""
    RunLog(tmp_path, RUNS)
    whole = (tmp_path / "curves.csv").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "curves.csv").write_bytes(whole[:length])
        points = max(0, whole[:length].count(b"\n") - 1)
        kept = [run for run, needed in zip(RUNS, (2, 0, 3), strict=True) if points >= needed]
        assert repr(read_runs(tmp_path)) == repr(kept)


def test_damaged_files_are_told(tmp_path: Path) -> None:
    RunLog(tmp_path, RUNS)
    whole = (tmp_path / "runs.csv").read_text()
    (tmp_path / "runs.csv").write_text(whole.replace("uniform,1", "uniform,one"))
    with pytest.raises(ConfigurationError, match="runs.csv must have a number as seed, got 'one'"):
        read_runs(tmp_path)
    (tmp_path / "runs.csv").write_text(whole.replace("flagged_share", "flag"))
    with pytest.raises(ConfigurationError, match=r"runs.csv must have the columns method, seed, .*got another table"):
        read_runs(tmp_path)


@pytest.mark.parametrize("way", ["hydra.run.dir", "compare.resume"])
def test_finished_runs_are_not_run_again(launch_tiny, capsys, monkeypatch, way) -> None:
    """Interrupted in the third run; what follows ends like a comparison that was not."""
    train_one = module.train_one

    def interrupted(config: Any, method: str, seed: int, *rest: Any) -> Run:
        if (method, seed) == ("uniform", 1):
            raise KeyboardInterrupt
        return train_one(config, method, seed, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_one", interrupted)
        with pytest.raises(KeyboardInterrupt):
            launch_tiny(*SHORT, folder="half")
    half = Path(capsys.readouterr().out.partition("Page: ")[2].partition("\n")[0]).parent
    before = read_csv(half / "runs.csv")
    assert [(run["method"], run["seed"]) for run in before] == [("uniform", "0"), ("dynamic_loss", "0")]
    tiny.ROWS_SEEN.clear()
    again = ("half", []) if way == "hydra.run.dir" else ("other", [f"compare.resume={half}"])
    launch_tiny(*SHORT, *again[1], folder=again[0])
    assert f"Resumed: 2 finished runs of {half}" in capsys.readouterr().out
    resumed = read_csv(half / "runs.csv")
    assert resumed[:2] == before
    seen = len(tiny.ROWS_SEEN)
    tiny.ROWS_SEEN.clear()
    whole = read_csv(launch_tiny(*SHORT, folder="whole") / "runs.csv")
    assert [run | {"seconds": ""} for run in resumed] == [run | {"seconds": ""} for run in whole]
    assert seen < 0.6 * len(tiny.ROWS_SEEN)


def test_failed_runs_are_tried_again(launch_tiny, monkeypatch) -> None:
    def fail(*arguments: Any) -> Run:
        if arguments[1] == "dynamic_loss":
            raise RuntimeError("busy")
        return train_one(*arguments)

    train_one = module.train_one
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_one", fail)
        folder = launch_tiny(*SHORT)
    assert [run["error"] for run in read_csv(folder / "runs.csv")] == ["", "RuntimeError: busy"] * 2
    launch_tiny(*SHORT)
    runs = read_csv(folder / "runs.csv")
    assert [(run["method"], run["seed"], run["error"]) for run in runs] == [
        *(("uniform", "0", ""), ("uniform", "1", ""), ("dynamic_loss", "0", ""), ("dynamic_loss", "1", "")),
    ]


def test_more_seeds_and_methods_may_join(launch_tiny) -> None:
    folder = launch_tiny("task=compare", "methods=[uniform]", "seeds=1", "trainer.max_steps=30")
    more = "methods=[uniform,dynamic_loss]"
    launch_tiny("task=compare", more, "seeds=2", "trainer.max_steps=30", "compare.target=0.2")
    runs = [(run["method"], run["seed"]) for run in read_csv(folder / "runs.csv")]
    assert runs == [("uniform", "0"), ("dynamic_loss", "0"), ("uniform", "1"), ("dynamic_loss", "1")]
    with pytest.raises(ConfigurationError, match=r"methods must hold those of the .* got none of \['dynamic_loss'\]"):
        launch_tiny("task=compare", "methods=[uniform]", "seeds=2", "trainer.max_steps=30")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("+model.lr=0.1", r"must train uniform as before, got model.lr=0.1 where it was None\. A new comparison takes"),
        ("trainer.max_steps=8", "must train uniform as before, got trainer.max_steps=8 where it was 6"),
        ("compare.mode=min", "must train uniform as before, got compare.mode='min' where it was 'max'"),
    ],
)
def test_another_config_is_refused(launch_tiny, override, told) -> None:
    folder = launch_tiny("task=compare", "methods=[uniform]", "seeds=1")
    before = (folder / "runs.csv").read_bytes()
    tiny.ROWS_SEEN.clear()
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny("task=compare", "methods=[uniform]", "seeds=1", override)
    assert (folder / "runs.csv").read_bytes() == before
    assert not tiny.ROWS_SEEN


def test_a_folder_that_is_not_there_is_told(launch_tiny) -> None:
    with pytest.raises(
        ConfigurationError, match="compare.resume must be null or the folder of a comparison, got '/no'"
    ):
        launch_tiny("task=compare", "methods=[uniform]", "seeds=1", "compare.resume=/no")


def test_a_full_disk_is_told_and_what_there_is_reported(launch_tiny, capsys, monkeypatch) -> None:
    append = writing._append

    def full(file: Path, text: str) -> None:
        if "dynamic_loss" in text and file.name == "runs.csv":
            raise writing._unwritable(file, OSError(errno.ENOSPC, "No space left on device"))
        append(file, text)

    monkeypatch.setattr(writing, "_append", full)
    told = r"hydra\.run\.dir must be a folder with room that can be written to, got .*out: No space left on device\."
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny(*SHORT)
    assert "Verdict: there is none" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_keeps_the_verdict_told(launch_tiny, capsys, monkeypatch) -> None:
    def full(*arguments: Any) -> None:
        raise ConfigurationError("no room")

    monkeypatch.setattr("lightning_select.app.compare.reporting.write_csv", full)
    launch_tiny("task=compare", "methods=[uniform]", "seeds=1")
    told = capsys.readouterr()
    assert "the report of the comparison was not written: no room" in told.err
    assert told.out.splitlines()[-1].startswith("Verdict: ")
