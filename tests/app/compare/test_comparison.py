from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from lightning_select.app.compare import comparison as module
from lightning_select.errors import ConfigurationError
from tests.app import tiny
from tests.app.conftest import TINY, read_csv

RECIPES = [
    *("balanced_difficulty", "divbs", "dynamic_loss", "el2n", "focal", "grad_norm", "importance_sampling", "max_loss"),
    *("rho_loss", "selective_backprop", "self_paced", "uds", "uncertainty"),
]
EQUAL_STEPS = "compare.equal_cost=false"
NOTE = "+callbacks.note._target_=tests.app.tiny.Note"


def _weighting(name: str) -> str:
    """A method called mine: a recipe whose weighting is a class of `tests.app.tiny`."""
    kind, weighting = "lightning_select.LossReweighting", f"tests.app.tiny.{name}"
    overrides = f"'+callbacks.mine._target_={kind}','+callbacks.mine.weighting._target_={weighting}'"
    return f"{{mine:['callbacks/selection=none',{overrides}]}}"


def test_every_recipe_trains_and_is_reported(launch_tiny, capsys) -> None:
    methods = f"methods=[uniform,{','.join(RECIPES)}]"
    folder = launch_tiny("task=compare", methods, "seeds=1", "compare.target=0.3", EQUAL_STEPS)
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines[3 : 4 + len(RECIPES)]] == ["uniform", *RECIPES]
    assert sum("failed" in line for line in lines) == 0, told.out
    assert lines[-1].startswith("Verdict: there is none, because no evidence comes from fewer than two paired seeds")
    assert f"Curves: {folder / 'compare.png'}" in told.out
    assert (folder / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert f"{len(RECIPES) + 1}/{len(RECIPES) + 1}" in told.err  # the progress bar
    runs = read_csv(folder / "runs.csv")
    assert [run["method"] for run in runs] == ["uniform", *RECIPES]
    assert {float(run["rows_per_step"]) for run in runs} == {8.0}
    assert {run["steps"] for run in runs} == {"6"}
    assert [line["method"] for line in read_csv(folder / "table.csv")] == ["uniform", *RECIPES]


def test_samples_are_the_rows_that_the_steps_were_run_on(launch_tiny) -> None:
    """Scoring, probes and both reference models of a holdout included; counted here by the module's own step."""
    for method in ("uniform", "rho_loss", "uds", "dynamic_loss"):
        tiny.ROWS_SEEN.clear()
        folder = launch_tiny("task=compare", f"methods=[{method}]", "seeds=1", folder=method)
        (run,) = read_csv(folder / "runs.csv")
        assert int(run["samples"]) == sum(tiny.ROWS_SEEN)
    assert not hasattr(tiny.Module.training_step, "__wrapped__")


def test_samples_of_a_selection_by_hand(launch_tiny) -> None:
    halved = "{max_loss:{callbacks.selection.keep:0.5}}"
    folder = launch_tiny("task=compare", f"methods=[uniform,{halved}]", "seeds=1", EQUAL_STEPS)
    uniform, selection = (int(run["samples"]) for run in read_csv(folder / "runs.csv"))
    assert uniform == 6 * 8
    assert selection == 6 * (16 + 8) + (2 + 16 + 16)  # candidates and kept rows; the probe of the first batch


def test_all_draw_the_same_batches_where_no_key_is_given(launch_tiny) -> None:
    halved = "{max_loss:{callbacks.selection.keep:0.5}}"
    folder = launch_tiny(
        "task=compare", f"methods=[uniform,{halved}]", "seeds=1", "compare.batch_size_key=null", EQUAL_STEPS
    )
    assert [float(run["rows_per_step"]) for run in read_csv(folder / "runs.csv")] == [8.0, 4.0]


def test_methods_share_initial_weights_and_order_of_rows(launch_tiny) -> None:
    """Although one of them draws from the global generator in every step, and dropout does too."""
    launch_tiny(
        *("task=compare", f"methods=[uniform,dynamic_loss,{_weighting('Drawn')}]", "seeds=2", "trainer.max_steps=15"),
        *(NOTE, EQUAL_STEPS),
    )
    first, second = tiny.NOTES[:3], tiny.NOTES[3:]
    assert first[0] == first[1] == first[2]
    assert second[0] == second[1] == second[2]
    assert first[0] != second[0]
    assert first[0][1:13] != first[0][13:]  # the epochs differ


def test_a_crash_costs_only_its_own_runs(launch_tiny, capsys) -> None:
    crash = "{crash:['callbacks/selection=none','+callbacks.crash._target_=tests.app.tiny.Crash']}"
    folder = launch_tiny("task=compare", f"methods=[uniform,{crash},max_loss]", "seeds=2", EQUAL_STEPS)
    told = capsys.readouterr().out
    assert "crash failed in 2 runs: RuntimeError: it went wrong\n" in told
    assert "Verdict (2 paired seeds, 95 % intervals, not adjusted for the number of methods): " in told
    assert "; crash finished no run." in told
    errors = [run["error"] for run in read_csv(folder / "runs.csv")]
    assert errors == ["", "RuntimeError: it went wrong", ""] * 2
    assert "in several lines" in (folder / "errors.txt").read_text(encoding="utf-8")


def test_weights_count_in_the_share_of_wrong_labels(launch_tiny) -> None:
    """Rows 0 and 1 of each batch have the weights 1 and 3 (here of 4, brought to mean one); others have none."""
    folder = launch_tiny("task=compare", f"methods=[uniform,{_weighting('FirstTwo')}]", "seeds=1", NOTE, EQUAL_STEPS)
    uniform, weighted = (float(run["flagged_share"]) for run in read_csv(folder / "runs.csv"))
    steps = tiny.NOTES[0][1:]
    assert uniform == pytest.approx(sum(row % 4 == 0 for ids in steps for row in ids) / (6 * 8))
    assert weighted == pytest.approx(sum((a % 4 == 0) + 3 * (b % 4 == 0) for a, b, *_ in steps) / (6 * 4))


def test_without_test_data_the_last_evaluation_is_the_final_one(launch_tiny) -> None:
    folder = launch_tiny("task=compare", "methods=[uniform]", "seeds=[4]", "model._target_=tests.app.tiny.WithoutTest")
    (run,) = read_csv(folder / "runs.csv")
    curve = read_csv(folder / "curves.csv")
    assert run["seed"] == "4"
    assert [point["step"] for point in curve] == ["2", "4", "6"]
    assert run["final"] == curve[-1]["value"]


def test_an_interrupted_comparison_reports_what_it_has(launch_tiny, capsys, monkeypatch) -> None:
    train_one = module.train_one

    def interrupted(config, method, seed, *rest):
        if seed == 1:
            raise KeyboardInterrupt
        return train_one(config, method, seed, *rest)

    monkeypatch.setattr(module, "train_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch_tiny("task=compare", "methods=[uniform,dynamic_loss]", "seeds=2")
    told = capsys.readouterr().out
    assert "dynamic_loss" in told
    assert "Verdict: there is none" in told


def test_a_killed_comparison_keeps_its_finished_runs(tmp_path) -> None:
    overrides = [*TINY, "task=compare", "methods=[uniform,dynamic_loss]", "seeds=500", f"hydra.run.dir={tmp_path}"]
    code = f"from lightning_select.app import main; main({overrides!r})"
    runs, quiet = tmp_path / "runs.csv", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code], **quiet) as process:
        deadline = time.monotonic() + 60
        while not (runs.exists() and len(read_csv(runs)) >= 1):
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline, "no run finished"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    rows = read_csv(runs)
    assert 1 <= len(rows) < 1000
    assert [row["method"] for row in rows[:2]] == ["uniform", "dynamic_loss"][: len(rows)]
    assert all(row["steps"] == "6" and row["final"] for row in rows)
    assert len(read_csv(tmp_path / "curves.csv")) >= 3 * len(rows)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["methods=[uniform,udss]"], "methods must name uniform, one of the recipes balanced_difficulty, .*'udss'"),
        (["methods=[uniform,uniform]"], "methods must be at least one, each with a name of its own"),
        (["methods=[]"], "methods must be at least one"),
        (["methods=[[uds]]"], r"methods must hold names and \{name: \{key: value\}\}, got \['uds'\]"),
        (["methods=[{mine:{callbacks.selection.keep:1}}]"], "with the recipe it stands for"),
        (["methods=[{uds:{callbacks.selection.kep:1}}]"], "methods must fit the config, got .*kep"),
        (["callbacks/selection=uds"], "callbacks/selection must not be set with task=compare"),
        (["seeds=0"], "seeds must be a number of at least 1, or a list of different ones, got 0"),
        (["seeds=2.5"], r"seeds must be .*, got 2\.5"),
        (["seeds=many"], "seeds must be .*, got 'many'"),
        (["seeds=[0.5]"], r"seeds must be .*, got \[0\.5\]"),
        (["seeds=true"], "seeds must be .*, got True"),
        (["methods=null"], "methods must hold names .*, got None"),
        (["seeds=[1,1]"], r"seeds must be .*, got \[1, 1\]"),
        (["compare.mode=best"], "compare.mode must be max or min, got 'best'"),
        (["compare.batch_size_key=data.batch"], "compare.batch_size_key must name a whole number of the config"),
    ],
)
def test_what_cannot_be_compared(launch_tiny, overrides, told) -> None:
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny("task=compare", *overrides)
    assert not tiny.NOTES


def test_a_metric_that_validation_does_not_log_ends_the_comparison_before_training(launch_tiny, capsys) -> None:
    told = (
        r"compare.metric must be logged by validation, got 'val/acc'; logged: val_acc. Write compare.metric=val_acc\."
    )
    underscore = "model._target_=tests.app.tiny.Underscore"
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny("task=compare", "methods=[uniform,max_loss]", "seeds=2", underscore, NOTE)
    assert not tiny.ROWS_SEEN
    assert "method " not in capsys.readouterr().out
    launch_tiny("task=compare", "methods=[uniform]", "seeds=1", underscore, "compare.metric=val_acc", folder="again")
    assert tiny.ROWS_SEEN


def test_a_module_may_log_nothing_while_validation_is_tried_out(launch_tiny) -> None:
    quiet = "model._target_=tests.app.tiny.Quiet"
    launch_tiny("task=compare", "methods=[uniform]", "seeds=1", quiet, "compare.metric=val_acc")
    with pytest.raises(ConfigurationError, match="Write compare.metric=val_acc"):
        launch_tiny("task=compare", "methods=[uniform,max_loss]", "seeds=2", quiet, NOTE, folder="again")
    assert len(tiny.NOTES) == 1
    assert len(tiny.NOTES[0]) == 1 + 2  # the weights, and the steps before the first evaluation


def test_a_metric_that_test_does_not_log_ends_the_comparison(launch_tiny) -> None:
    told = (
        r"compare\.final_metric must be logged by test, got 'f1'; logged: test/acc\. Set compare\.final_metric to one"
    )
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny("task=compare", "methods=[uniform,max_loss]", "seeds=2", "compare.final_metric=f1", NOTE)
    assert len(tiny.NOTES) == 1


def test_a_method_whose_module_lacks_the_metric_costs_only_its_own_runs(launch_tiny, capsys) -> None:
    other = "{other:{callbacks/selection:none,model._target_:tests.app.tiny.Underscore}}"
    launch_tiny("task=compare", f"methods=[uniform,{other}]", "seeds=1")
    told = capsys.readouterr().out
    assert "other failed in 1 run: MissingMetricError: compare.metric must be logged by validation" in told


def test_a_comparison_without_a_finished_run_is_an_error(launch_tiny, capsys) -> None:
    told = "task=compare must have a run that finishes, got 2 that failed, the first with .* evaluate at least once"
    with pytest.raises(ConfigurationError, match=told) as caught:
        launch_tiny("task=compare", "methods=[uniform,max_loss]", "seeds=1", "trainer.val_check_interval=7")
    assert re.search(r"Set val_check_interval\. \(the whole story: .*errors\.txt\)$", str(caught.value))
    out = capsys.readouterr().out
    assert re.search("max_loss failed in 1 run: .*task=compare must evaluate at least once", out)
    assert "Verdict: there is none" in out


class Advises(tiny.Module):
    def training_step(self, *_: Any) -> Any:
        raise ValueError("Say trainer.max_steps=...")


def test_the_line_of_a_run_that_failed_is_told_as_it_is(launch_tiny) -> None:
    module = "model._target_=tests.app.compare.test_comparison.Advises"
    with pytest.raises(ConfigurationError, match=r"ValueError: Say trainer\.max_steps=\.\.\. \(the whole story: "):
        launch_tiny("task=compare", "methods=[uniform]", "seeds=1", module)


@pytest.mark.parametrize(
    "missing", ["model._target_=tests.app.tiny.WithoutTest", "data._target_=tests.app.tiny.WithoutTestData"]
)
def test_the_final_metric_is_called_what_it_is(launch_tiny, capsys, missing) -> None:
    folder = launch_tiny("task=compare", "methods=[uniform,dynamic_loss]", "seeds=2", missing)
    told = capsys.readouterr().out
    assert "test/acc" not in told
    head = next(line for line in told.splitlines() if line.startswith("method "))
    assert head.split()[1] == "val/acc"
    assert "in final val/acc" in told
    assert {line["final_metric"] for line in read_csv(folder / "table.csv")} == {"val/acc"}
    assert {run["final_metric"] for run in read_csv(folder / "runs.csv")} == {"val/acc"}


def test_where_one_method_has_no_test_all_end_with_the_last_evaluation(launch_tiny, capsys) -> None:
    other = "{other:{callbacks/selection:none,model._target_:tests.app.tiny.WithoutTest}}"
    folder = launch_tiny("task=compare", f"methods=[uniform,{other}]", "seeds=1")
    assert "test/acc" not in capsys.readouterr().out
    ends = [float(point["value"]) for point in read_csv(folder / "curves.csv") if point["step"] == "6"]
    assert [float(line["final_mean"]) for line in read_csv(folder / "table.csv")] == ends
    assert [run["final_metric"] for run in read_csv(folder / "runs.csv")] == ["test/acc", "val/acc"]


def test_a_single_name_needs_no_list(launch_tiny) -> None:
    folder = launch_tiny("task=compare", "methods=uniform", "seeds=1")
    assert [run["method"] for run in read_csv(folder / "runs.csv")] == ["uniform"]


def test_a_folder_of_runs_of_unknown_origin_is_left_alone(launch_tiny) -> None:
    folder = launch_tiny("task=compare", "methods=[uniform]", "seeds=1")
    (folder / "comparison.json").unlink()
    before = (folder / "runs.csv").read_bytes()
    with pytest.raises(ConfigurationError, match=r"hydra\.run\.dir must be a new folder, got .* holds runs\.csv"):
        launch_tiny("task=compare", "methods=[uniform]", "seeds=1")
    assert (folder / "runs.csv").read_bytes() == before


def test_the_first_seeds_get_reports_on_their_rows(launch_tiny: Any, capsys: Any) -> None:
    methods = "methods=[uniform,{halved:{callbacks/selection:max_loss,callbacks.selection.keep:0.5}}]"
    settings = ("task=compare", methods, "seeds=2", "compare.equal_cost=false")
    plain = launch_tiny(*settings, folder="plain")
    folder = launch_tiny(*settings, "compare.reports=1", folder="reported")
    found = sorted(file.relative_to(folder).as_posix() for file in folder.glob("reports/*/*"))
    names = ("halved-0", "uniform-0")
    assert found == [f"reports/{name}/{file}" for name in names for file in ("report.html", "rows.csv")]
    page = (folder / "compare.html").read_text(encoding="utf-8")
    assert '<a href="reports/halved-0/report.html">halved, seed 0</a>' in page
    same = ("method", "seed", "final", "steps", "rows_per_step")
    told = [[run[name] for name in same] for run in read_csv(folder / "runs.csv")]
    assert told == [[run[name] for name in same] for run in read_csv(plain / "runs.csv")]


def test_data_that_have_no_row_ids_are_compared_without_reports(launch: Any, capsys: Any) -> None:
    own = [one for one in TINY if "data._target_" not in one and "reports" not in one]
    folder = launch(*own, "data._target_=tests.app.tiny.Streamed", "task=compare", "methods=[uniform]", "seeds=1")
    assert "Notice: no report on the rows of uniform: " in capsys.readouterr().out
    assert [run["error"] for run in read_csv(folder / "runs.csv")] == [""]


@pytest.mark.parametrize("value", [-1, "all", 0.5])
def test_the_number_of_reports_is_one(launch_tiny: Any, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="compare.reports must be a number of seeds, 0 or more"):
        launch_tiny("task=compare", f"compare.reports={value}")
