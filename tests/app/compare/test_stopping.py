from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from lightning_select.app.compare import comparison as module
from lightning_select.app.compare.equal_cost import baseline_name
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.reporting import Settings
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.stopping import hopeless
from tests.app.conftest import read_csv

WOBBLE = (0.0, 0.004, -0.003, 0.001, 0.002)
SETTINGS = Settings("val/acc", "max", 0.8)


def run(method: str, seed: int) -> Run:
    """Uniform gets to .9 and the method "bad" to .5, at twice the cost; both wobble a little."""
    end = (0.5 if method == "bad" else 0.9) + WOBBLE[seed] * (2 if method == "bad" else 1)
    curve = tuple(Point(at, 8 * at, 0.1 * at, end - 0.4 / at**2, 8 * at) for at in (1, 2, 5, 10))
    cost = 320 if method in ("bad", baseline_name("bad"), "good") else 160
    return Run(method, seed, final=end, final_metric="val/acc", steps=10, batches=10, samples=cost, points=curve)


def test_after_three_seeds_who_is_clearly_worse_gets_no_more() -> None:
    runs = [run(method, seed) for seed in range(3) for method in ("uniform", "bad", "good", baseline_name("bad"))]
    assert hopeless(runs, SETTINGS) == {"bad": 3}
    assert hopeless(runs[:-4], SETTINGS) == {}
    assert hopeless([one for one in runs if one.method != baseline_name("bad")], SETTINGS) == {}
    assert hopeless(runs, Settings("val/acc", "min", 0.55)) == {}


@pytest.mark.parametrize(("spread", "stopped"), [(0.0122, {}), (0.005, {"bad": 3})])
def test_it_takes_99_percent(spread: float, stopped: dict[str, int]) -> None:
    """The final metric is .05 behind; with the larger spread the 95 % interval leaves out zero, the one of 99 % not."""
    runs = [run(method, seed) for seed in range(3) for method in ("uniform", "bad", baseline_name("bad"))]
    finals = {"bad": lambda seed: 0.85 + (seed - 1) * spread}
    runs = [replace(one, final=finals.get(one.method, lambda seed: 0.9)(one.seed)) for one in runs]
    assert hopeless(runs, SETTINGS) == stopped


@pytest.mark.parametrize(
    ("stop", "good", "bad_seeds", "seeds"),
    [("true", True, "012", "01234"), ("true", False, "012", "012"), ("false", False, "01234", "01234")],
)
def test_a_comparison_skips_their_seeds(
    launch_tiny: Any, capsys: Any, monkeypatch: Any, stop: str, good: bool, bad_seeds: str, seeds: str
) -> None:
    """And everyone's, where nobody is left to compare uniform with."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(module, "train_one", lambda config, method, seed, *rest: run(method, seed))
    bad = "{bad:{callbacks/selection:max_loss}}"
    settings = ("seeds=5", "compare.target=0.8", f"compare.stop_worse={stop}")
    more = ",{good:{callbacks/selection:max_loss}}" if good else ""
    folder = launch_tiny("task=compare", f"methods=[uniform,{bad}{more}]", *settings)
    ran: dict[str, str] = {}
    for row in read_csv(folder / "runs.csv"):
        ran[row["method"]] = ran.get(row["method"], "") + row["seed"]
    others = {"good": seeds} if good else {}
    assert ran == {"uniform": seeds, "bad": bad_seeds, baseline_name("bad"): seeds} | others
    told = capsys.readouterr()
    assert ("bad stopped after 3 seeds: clearly worse (99 %)" in told.out) is (stop == "true")
    total = sum(map(len, ran.values()))
    assert f"{total}/{total}" in told.err
    assert ("stopped after 3 seeds" in (folder / "compare.html").read_text("utf-8")) is (stop == "true")


@pytest.mark.parametrize(("seeds", "stop", "told"), [(3, "true", True), (4, "true", False), (1, "false", False)])
def test_who_has_too_few_seeds_to_stop_anyone_is_told(
    launch_tiny: Any, capsys: Any, monkeypatch: Any, seeds: int, stop: str, told: bool
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(module, "train_one", lambda config, method, seed, *rest: run(method, seed))
    launch_tiny("task=compare", "methods=[uniform]", f"seeds={seeds}", f"compare.stop_worse={stop}")
    notice = "Notice: compare.stop_worse=true does nothing, because a method is only stopped after 3 seeds"
    assert (notice in capsys.readouterr().out) is told
