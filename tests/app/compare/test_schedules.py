from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from tests.app import tiny
from tests.app.conftest import TINY, read_csv

RATES: list[list[float]] = []
"""Learning rates of every optimiser step, one list per fit."""

QUARTER = "{max_loss:{callbacks.selection.keep:0.25}}"
OVERRIDES = [*(one for one in TINY[1:] if "max_steps" not in one), "trainer.max_steps=36"]


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the training."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


class Falling(tiny.Module):
    """Its learning rate halves after each epoch, or each second one, or where the metric does not get better."""

    def __init__(self, kind: str = "step") -> None:
        super().__init__()
        self.kind = kind

    def on_fit_start(self) -> None:
        RATES.append([])

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        RATES[-1].append(optimizer.param_groups[0]["lr"])
        super().optimizer_step(epoch, batch_idx, optimizer, *args, **kwargs)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        if self.kind == "plateau":
            schedule: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, threshold=9.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/acc"}}
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        frequency = 2 if self.kind == "second" else 1
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "frequency": frequency}}


@pytest.mark.parametrize(
    ("kind", "rates"),
    [("step", [1.0, 0.5, 0.25]), ("second", [1.0, 1.0, 0.5]), ("plateau", [1.0, 1.0, 0.1])],
)
def test_learning_rates_fall_with_the_epochs_of_uniform(launch, kind, rates) -> None:
    """96 rows: 12 steps of 8 rows, but 3 of the 32 of which a quarter is kept."""
    RATES.clear()
    where = ("model._target_=tests.app.compare.test_schedules.Falling", f"+model.kind={kind}")
    settings = (f"methods=[uniform,{QUARTER}]", "seeds=1", "compare.equal_cost=false")
    folder = launch(*OVERRIDES, *where, "task=compare", *settings)
    assert [(run["steps"], run["error"]) for run in read_csv(folder / "runs.csv")] == [("36", "")] * 2
    uniform, selection = (one for one in RATES if len(one) == 36)
    assert uniform == pytest.approx([rate for rate in rates for _ in range(12)])
    assert selection == uniform
