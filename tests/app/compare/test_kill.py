"""SIGKILL at any moment, and the same command once more: the end is that of a comparison that was left alone."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_select.app.compare.resuming import COMPARISON
from tests.app.conftest import TINY, read_csv

NO_PLOT = "from lightning_select.app import main; import sys; sys.modules['matplotlib.figure'] = None"
HALVED = "{halved:{callbacks/selection:max_loss,callbacks.selection.keep:0.5}}"
SETTINGS = ("task=compare", f"methods=[uniform,{HALVED},dynamic_loss]", "compare.target=0.3", "trainer.max_steps=30")


def command(folder: Path, *overrides: str) -> list[str]:
    """The comparison in a process of its own, without the plot, which takes longer than the training."""
    every = [*TINY, *SETTINGS, *overrides, f"hydra.run.dir={folder}"]
    code = f"{NO_PLOT}; main({every!r})"
    return [sys.executable, "-c", code]


def kill(folder: Path, file: str, after: float, *overrides: str) -> bool:
    """Kill it so many seconds after that file is there with more than a heading; was it still running?"""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(folder, *overrides), **quiet) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and not _begun(folder / file):
            assert time.monotonic() < deadline, "it did not start"
            time.sleep(0.005)
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def _begun(file: Path) -> bool:
    return file.exists() and file.read_bytes().count(b"\n") > 1


def finish(folder: Path, *overrides: str) -> list[list[dict[str, str]]]:
    """Let it run to its end."""
    done = subprocess.run(command(folder, *overrides), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("*.part"))
    return written(folder)


def written(folder: Path) -> list[list[dict[str, str]]]:
    """Everything it wrote but the times."""
    timed = ("seconds", "seconds_to_target")
    files = ("runs.csv", "curves.csv", "table.csv")
    return [[{k: v for k, v in row.items() if k not in timed} for row in read_csv(folder / name)] for name in files]


@pytest.mark.slow
def test_a_killed_comparison_goes_on(tmp_path: Path, launch_tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second run of five."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    whole = launch_tiny(*SETTINGS, "seeds=1", folder="whole")
    assert kill(tmp_path / "killed", "runs.csv", 0.02, "seeds=1")
    assert 1 <= len(read_csv(tmp_path / "killed" / "runs.csv")) < 5
    assert finish(tmp_path / "killed", "seeds=1") == written(whole)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    draw = random.Random(0)
    whole = finish(tmp_path / "whole", "seeds=3")
    for attempt in range(4):
        folder, kills = tmp_path / str(attempt), 0
        while kills < 4 and kill(folder, COMPARISON, draw.uniform(0, 2), "seeds=3"):
            kills += 1
        assert kills > 0
        assert finish(folder, "seeds=3") == whole
