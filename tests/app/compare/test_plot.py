from __future__ import annotations

import sys
from pathlib import Path

from lightning_select.app.compare.plot import plot_curves
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run

CURVE = tuple(Point(10 * at, 100 * at, 0.5 * at, 0.1 * at) for at in range(1, 5))
RUNS = [Run("uniform", 0, points=CURVE), Run("uniform", 1, points=CURVE[:2]), Run("rho", 0, error="RuntimeError: no")]


def test_a_picture_is_written(tmp_path: Path) -> None:
    assert plot_curves(RUNS, tmp_path / "a.png", metric="val/acc", target=0.2)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_without_a_finished_run_there_is_none(tmp_path: Path) -> None:
    assert not plot_curves(RUNS[2:], tmp_path / "a.png", metric="val/acc", target=None)
    assert not (tmp_path / "a.png").exists()


def test_without_matplotlib_there_is_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not plot_curves(RUNS, tmp_path / "a.png", metric="val/acc", target=None)
