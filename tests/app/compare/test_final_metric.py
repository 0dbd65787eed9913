"""What a run is judged by in the end: its name, where it comes from, and whether more of it is better."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_select.app.compare.counting import RowCount
from lightning_select.app.compare.recorder import MissingMetricError, Point, Recorder, metric_of_test
from lightning_select.app.compare.reporting import Settings, report
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.stopping import hopeless
from lightning_select.errors import ConfigurationError
from tests.app import tiny
from tests.app.conftest import read_csv


class WithLoss(tiny.Module):
    """Logs losses of both kinds, in the way of names that end in the metric."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 1 - self._right(batch), batch_size=len(batch["y"]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", 1 - self._right(batch), batch_size=len(batch["y"]))
        self.log("test/acc", self._right(batch), batch_size=len(batch["y"]))


class ByStage(tiny.Module):
    """Names its metrics by the stage that the Trainer is in, as pytorch-forecasting does."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        stage = "val" if self.trainer.validating or not self.trainer.sanity_checking else "sanity_check"
        self.log(f"{stage}_acc", self._right(batch), batch_size=len(batch["y"]))


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the training."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.mark.parametrize(
    ("metric", "logged", "expected"),
    [
        ("val/loss", {"test/loss": 0.5, "test/acc": 0.9}, (0.5, "test/loss")),
        ("val_loss", {"test_loss": 0.5}, (0.5, "test_loss")),
        ("valid/f1", {"test/f1": 0.5}, (0.5, "test/f1")),
        ("validation.f1", {"test.f1": 0.5}, (0.5, "test.f1")),
        ("acc", {"acc": 0.5}, (0.5, "acc")),
        ("value_loss", {"testue_loss": 0.1, "value_loss": 0.5}, (0.5, "value_loss")),
        ("val/loss", {"test/acc": 0.5}, None),
    ],
)
def test_without_a_name_it_is_that_of_the_curves_in_the_test(metric: str, logged: Any, expected: Any) -> None:
    trainer = SimpleNamespace(callback_metrics={name: torch.tensor(value) for name, value in logged.items()})
    assert metric_of_test(trainer, metric, None) == expected
    with pytest.raises(MissingMetricError, match=r"compare\.final_metric must be logged by test, got 'other'"):
        metric_of_test(trainer, metric, "other")


def losses_and_finals() -> list[Run]:
    """The method "good" has lower losses and a higher final metric on all seeds."""
    runs = []
    for seed in range(5):
        for method, loss, final in (("uniform", 1.0, 0.5), ("good", 0.5, 0.9)):
            curve = tuple(Point(at, at, float(at), loss + seed / 1000 + 1 / at, at) for at in (1, 2, 5, 10))
            end = final + seed**2 / 1000 * (method == "good")
            runs.append(Run(method, seed, final=end, final_metric="test/acc", samples=100, steps=10, points=curve))
    return runs


def test_a_final_metric_of_another_kind_has_a_mode_of_its_own(tmp_path: Path, capsys: Any) -> None:
    runs = losses_and_finals()
    report(runs, Settings("val/loss", "min", None, final_mode="max"), tmp_path)
    assert "in final test/acc good (by +0.40" in capsys.readouterr().out
    assert "differences\nabove zero" in (tmp_path / "compare.html").read_text(encoding="utf-8")
    report(runs, Settings("val/loss", "min", None), tmp_path)
    assert "in final test/acc no method beats uniform and good (by +0.40" in capsys.readouterr().out
    worse = Settings("val/loss", "min", 0.9)
    assert hopeless(runs, worse) == {}
    swapped = {"uniform": "good", "good": "uniform"}
    turned = [Run(**{**vars(run), "method": swapped[run.method]}) for run in runs]
    assert hopeless(turned, replace(worse, final_mode="max")) == {"good": 5}
    assert hopeless(turned, worse) == {}


def test_where_the_curves_tell_their_own_mode_counts() -> None:
    settings = Settings("val/loss", "min", None, final_mode="max")
    assert settings.higher_final("test/acc")
    assert not settings.higher_final("val/loss")


def test_a_module_that_logs_losses_is_tested_by_its_loss(launch_tiny: Any, capsys: Any) -> None:
    module = "model._target_=tests.app.compare.test_final_metric.WithLoss"
    chosen = ("task=compare", "methods=[uniform]", "seeds=1", module, "compare.metric=val_loss", "compare.mode=min")
    folder = launch_tiny(*chosen)
    assert [run["final_metric"] for run in read_csv(folder / "runs.csv")] == ["test_loss"]
    launch_tiny(*chosen, "compare.final_mode=max")  # how runs are looked at may change
    folder = launch_tiny(*chosen, "compare.final_metric=test/acc", "compare.final_mode=max", folder="other")
    assert [run["final_metric"] for run in read_csv(folder / "runs.csv")] == ["test/acc"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("compare.final_mode=best", "compare.final_mode must be null, max or min, got 'best'"),
        ("compare.final_metric=3", "compare.final_metric must be null or the name of a metric, got 3"),
        ("compare.target=nan", "compare.target must be null or a number, got nan"),
    ],
)
def test_settings_of_a_wrong_kind(launch_tiny: Any, override: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny("task=compare", override)
    assert not tiny.ROWS_SEEN


def fit(module: Any, metric: str) -> Recorder:
    recorder = Recorder(metric, RowCount(), None)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", callbacks=[recorder], max_steps=2, val_check_interval=2, **off)
    trainer.fit(module, datamodule=tiny.Data())
    return recorder


def test_names_of_the_sanity_check_alone_say_nothing_of_validation() -> None:
    assert len(fit(ByStage(), "val_acc").points) == 1
    with pytest.raises(MissingMetricError, match=r"got 'val/acc'; logged: .*val_acc.*Write compare\.metric=val_acc"):
        fit(ByStage(), "val/acc")
    tiny.ROWS_SEEN.clear()
    with pytest.raises(MissingMetricError, match="got 'val/acc'; logged: val_acc"):
        fit(tiny.Underscore(), "val/acc")
    assert not tiny.ROWS_SEEN
