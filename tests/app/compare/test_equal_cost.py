from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import pytest
from omegaconf import OmegaConf

from lightning_select.app.compare.equal_cost import (
    baseline_name,
    baselines_of,
    missed_cost,
    missing_baselines,
    plan_baseline,
)
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run
from tests.app import tiny
from tests.app.conftest import read_csv

CURVE = tuple(Point(10 * at, 80 * at, 1.0, 0.5, 80 * at) for at in range(1, 11))


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the training."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def run(method: str, seed: int, cost: int, **kwargs) -> Run:
    """A run of 100 steps whose cost is all forward passes."""
    settings = {"final": 0.5, "steps": 100, "batches": 100, "samples": cost, "points": CURVE} | kwargs
    return Run(method, seed, **settings)


def test_a_backward_pass_costs_two_forward_passes() -> None:
    assert run("a", 0, 50, trained=30).cost == 50 + 2 * 30
    assert CURVE[1].cost == 160 + 2 * 160


def test_costs_that_agree_share_a_baseline() -> None:
    costs = {"same": 1040, "dear": 3000, "dearer": 3140, "dearest": 3160, "cheap": 600}
    runs = [run("uniform", 0, 1000), *(run(name, 0, cost) for name, cost in costs.items())]
    assert baselines_of(runs) == {
        "same": "uniform",
        "dear": "uniform (cost of dear)",
        "dearer": "uniform (cost of dear)",
        "dearest": "uniform (cost of dearest)",
        "cheap": "uniform (cost of cheap)",
    }


def test_baselines_stay_from_seed_to_seed() -> None:
    runs = [run("uniform", 0, 1000), run("a", 0, 3000), run("b", 0, 3050), run("uniform", 1, 1000), run("a", 1, 9000)]
    assert baselines_of(runs) == {"a": "uniform (cost of a)", "b": "uniform (cost of a)"}
    # b failed at first, was named in the meantime, and stays so when a is there
    runs = [run("uniform", 0, 1000), run(baseline_name("b"), 0, 3050), run("a", 0, 3000), run("b", 0, 3050)]
    assert baselines_of(runs) == {"a": "uniform (cost of b)", "b": "uniform (cost of b)"}


def test_failed_runs_have_no_cost() -> None:
    runs = [run("uniform", 0, 1000), Run("a", 0, error="no"), Run("uniform", 1, error="no"), run("b", 1, 3000)]
    assert baselines_of(runs) == {}
    assert missing_baselines(runs, 0) == []
    assert missing_baselines(runs, 1) == []


def test_what_is_missing() -> None:
    runs = [run("uniform", 0, 1000), run("a", 0, 3000), run("b", 0, 3010), run("c", 0, 600)]
    names = [(name, of.method) for name, of, _ in missing_baselines(runs, 0)]
    assert names == [("uniform (cost of a)", "a"), ("uniform (cost of c)", "c")]
    runs += [run(baseline_name("a"), 0, 3000), run("uniform", 1, 1000), run("b", 1, 3020)]
    assert [name for name, *_ in missing_baselines(runs, 0)] == ["uniform (cost of c)"]
    ((name, of, uniform),) = missing_baselines(runs, 1)  # a itself did not finish on this seed
    assert (name, of.method, uniform.seed) == ("uniform (cost of a)", "b", 1)


@pytest.mark.parametrize(
    ("cost", "batches", "epochs", "steps", "every", "told"),
    [
        (2330, 100, -1, 233, 23, -1),  # to 240 it would be 3 % more
        (2395, 100, -1, 240, 24, -1),
        (600, 100, 10, 60, 6, 6),
        (3000, 400, 10, 300, 120, 30),  # four batches per step
        (40, 100, None, 4, 1, -1),
    ],
)
def test_length_and_evaluations(cost, batches, epochs, steps, every, told) -> None:
    uniform = replace(run("uniform", 0, 1000), batches=batches)
    config = OmegaConf.create({"trainer": {"max_epochs": epochs}})
    method, budget = plan_baseline("uniform (cost of a)", run("a", 0, cost), uniform, config)
    assert budget == {
        "max_epochs": -1,
        "max_steps": steps,
        "val_check_interval": every,
        "check_val_every_n_epoch": None,
    }
    assert f"++trainer.max_steps={steps}" in method.overrides
    assert f"++trainer.max_epochs={told}" in method.overrides
    assert f"++trainer.val_check_interval={every}" in method.overrides


def test_a_baseline_that_missed_its_cost_does_not_count() -> None:
    uniform, method = run("uniform", 0, 1000), run("a", 0, 5000)
    name = baseline_name("a")
    assert missed_cost(run(name, 0, 5200), method, uniform) == missed_cost(run(name, 0, 4800), method, uniform) == ""
    assert missed_cost(run(name, 0, 3140), method, uniform) == "it cost 3.14x uniform, a 5.00x uniform"
    assert missed_cost(run(name, 0, 5300), method, uniform).startswith("it cost 5.30x")
    few = run("uniform", 0, 1000, steps=2)  # of which each costs 500
    assert missed_cost(run(name, 0, 1500), run("a", 0, 1800), few) == ""


def test_a_baseline_that_ends_early_is_told(launch_tiny) -> None:
    stop = "+callbacks.brief._target_=tests.app.compare.test_equal_cost.Nine"
    folder = launch_tiny("task=compare", f"methods=[uniform,{HALVED}]", "seeds=1", "trainer.max_steps=9", stop)
    errors = {run["method"]: run["error"] for run in read_csv(folder / "runs.csv")}
    assert errors["uniform"] == errors["halved"] == ""
    assert errors["uniform (cost of halved)"].startswith("unfair: it cost 1.00x uniform, halved ")


class Nine(pl.Callback):
    """Ends after nine steps, as the clock may."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 9


SCHEDULED = ("model._target_=tests.app.tiny.Scheduled", "+model.length=${trainer.max_steps}")
HALVED = "{halved:{callbacks/selection:max_loss,callbacks.selection.keep:0.5}}"


def test_uniform_at_equal_cost_is_in_every_table(launch_tiny, capsys) -> None:
    """By hand: 6 steps, each of 16 rows scored and 8 trained; a probe of 2 and two of 16 rows, one of them recorded."""
    folder = launch_tiny("task=compare", f"methods=[uniform,{HALVED}]", "seeds=2", *SCHEDULED)
    runs = {(run["method"], run["seed"]): run for run in read_csv(folder / "runs.csv")}
    name = "uniform (cost of halved)"
    assert list(runs) == [(each, seed) for seed in "01" for each in ("uniform", "halved", name)]
    halved, baseline = runs["halved", "0"], runs[name, "0"]
    assert (int(runs["uniform", "0"]["samples"]), int(runs["uniform", "0"]["trained"])) == (48, 48)
    cost = int(halved["samples"]) + 2 * int(halved["trained"])
    assert int(halved["samples"]) == 6 * (16 + 8) + (2 + 16 + 16)
    assert 6 * 8 <= int(halved["trained"]) <= 6 * 8 + (2 + 16 + 16)
    assert abs(int(baseline["samples"]) * 3 / cost - 1) < 0.05
    assert int(baseline["steps"]) == int(baseline["samples"]) // 8
    assert int(baseline["evaluations"]) >= 3
    assert [6, 6, int(baseline["steps"]), 6, 6, int(runs[name, "1"]["steps"])] == tiny.LENGTHS
    rows = read_csv(folder / "table.csv")
    assert [row["equal_cost_baseline"] for row in rows] == ["", name, ""]
    told = capsys.readouterr().out
    assert "at equal cost no method helps" in told


def test_methods_that_cost_the_same_are_compared_with_uniform_itself(launch_tiny) -> None:
    folder = launch_tiny("task=compare", "methods=[uniform,dynamic_loss]", "seeds=1", "trainer.max_steps=30")
    rows = read_csv(folder / "table.csv")
    assert [row["method"] for row in rows] == ["uniform", "dynamic_loss"]
    assert rows[1]["equal_cost_baseline"] == "uniform"


def test_uniform_at_equal_cost_may_be_left_out(launch_tiny, capsys) -> None:
    folder = launch_tiny("task=compare", f"methods=[uniform,{HALVED}]", "seeds=2", "compare.equal_cost=false")
    rows = read_csv(folder / "table.csv")
    words = [(row["method"], row["at_equal_steps"], row["at_equal_cost"]) for row in rows]
    assert words == [("uniform", "", ""), ("halved", "no evidence", "")]
    assert "no evidence either way for halved (uniform at equal cost was not run)" in capsys.readouterr().out
