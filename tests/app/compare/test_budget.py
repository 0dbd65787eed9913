from __future__ import annotations

from typing import Any

import pytest
from hydra.errors import InstantiationException
from lightning.pytorch.utilities import CombinedLoader
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from lightning_select.app.compare.budget import ManualStepsError, budget_in_steps, check_steps
from lightning_select.errors import ArgumentError, ConfigurationError
from tests.app import tiny
from tests.app.conftest import read_csv

BATCHES = tiny.ROWS // 8


def config(data: str = "tests.app.tiny.Data", model: str = "tests.app.tiny.Module", **trainer: Any) -> Any:
    return OmegaConf.create({"trainer": trainer, "data": {"_target_": data}, "model": {"_target_": model}})


@pytest.mark.parametrize(
    ("trainer", "steps", "every"),
    [
        ({"max_epochs": 3}, 3 * BATCHES, BATCHES),
        ({"max_epochs": 3, "max_steps": 5}, 5, BATCHES),
        ({"max_epochs": 3, "max_steps": 500, "val_check_interval": 0.25}, 3 * BATCHES, BATCHES // 4),
        ({"max_epochs": -1, "max_steps": 500, "val_check_interval": 4}, 500, 4),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2, "val_check_interval": 1.0}, 3 * BATCHES, 2 * BATCHES),
        ({"max_epochs": 3, "accumulate_grad_batches": 5}, 3 * 3, BATCHES),
        ({"max_epochs": 3, "limit_train_batches": 7}, 21, 7),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, BATCHES, BATCHES // 2),
        ({"max_epochs": 2, "val_check_interval": 9, "check_val_every_n_epoch": None}, 2 * BATCHES, 9),
        ({"max_steps": 40}, 40, BATCHES),
        ({"max_steps": 1001 * BATCHES}, 1001 * BATCHES, BATCHES),
        ({}, 1000 * BATCHES, BATCHES),
        ({"max_epochs": 3, "limit_train_batches": None}, 3 * BATCHES, BATCHES),
        ({"max_epochs": 3, "limit_train_batches": 7.0}, 21, 7),
        ({"max_epochs": 3, "limit_train_batches": 7, "overfit_batches": 0.0}, 21, 7),
    ],
)
def test_epochs_become_steps(trainer, steps, every) -> None:
    budget = budget_in_steps(config(**trainer))
    assert budget["max_steps"] == steps
    assert budget["val_check_interval"] == every
    assert (budget["max_epochs"], budget["check_val_every_n_epoch"]) == (-1, None)


@pytest.mark.parametrize("trainer", [{"max_epochs": 0}, {"max_epochs": 2, "max_steps": 0}, {"max_steps": 0}])
def test_a_comparison_trains_something(trainer) -> None:
    name = "max_steps" if "max_steps" in trainer else "max_epochs"
    with pytest.raises(
        ConfigurationError, match=rf"trainer\.{name} must be above 0 .* got 0, .*: trainer\.max_epochs="
    ):
        budget_in_steps(config(**trainer))


@pytest.mark.parametrize(
    "limit", [{"limit_train_batches": 0}, {"limit_train_batches": 0.0}, {"limit_train_batches": 0.01}]
)
def test_a_limit_leaves_a_batch(limit) -> None:
    ((name, value),) = limit.items()
    told = (
        rf"trainer\.{name} must leave a batch to train on .* got {value} of the {BATCHES} batches .*: ~trainer\.{name}"
    )
    with pytest.raises(ConfigurationError, match=told):
        budget_in_steps(config(max_epochs=2, **limit))


@pytest.mark.parametrize("name", ["max_epochs", "max_steps"])
@pytest.mark.parametrize("value", [-2, -1000])
def test_a_length_below_that_of_no_end_is_refused(name: str, value: int) -> None:
    told = rf"trainer\.{name} must be above 0 .* or -1 where the other one ends the training, got {value}\. Say how"
    with pytest.raises(ConfigurationError, match=told):
        budget_in_steps(config(**{"max_epochs": 3, "max_steps": 30, name: value}))


STOPS = {"stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping"}}


def test_a_training_without_an_end_is_refused() -> None:
    endless = {"max_epochs": -1, "max_steps": -1}
    with pytest.raises(ConfigurationError, match=r"max_epochs or trainer\.max_steps must end .* got -1 for both"):
        budget_in_steps(config(**endless))
    assert budget_in_steps(config(**endless, max_time="00:00:00:30"))["max_steps"] == -1
    stopping = OmegaConf.merge(config(**endless), {"callbacks": STOPS})
    assert budget_in_steps(stopping)["max_steps"] == -1


def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: Any) -> None:
        pytest.fail("a module was made")

    monkeypatch.setattr(tiny.Module, "__init__", made)


@pytest.mark.parametrize("key", ["data.batch_size", "null"])
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["+trainer.overfit_batches=2"], r"trainer\.overfit_batches must be 0 .*, got 2\. .* task=fit\."),
        (["+trainer.overfit_batches=0.5"], r"trainer\.overfit_batches must be 0 .*, got 0\.5\. .* task=fit\."),
        (["trainer.max_epochs=-2"], r"trainer\.max_epochs must be above 0 .* got -2\."),
        (["trainer.max_epochs=-1", "trainer.max_steps=-1"], r"must end the training .* got -1 for both"),
        (["trainer.max_steps=0"], r"trainer\.max_steps must be above 0 .* got 0,"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    launch_tiny: Any, monkeypatch: pytest.MonkeyPatch, key: str, overrides: list[str], told: str
) -> None:
    """Also where all methods draw the same batches."""
    nothing_is_made(monkeypatch)
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny("task=compare", "methods=[uniform,uds]", f"compare.batch_size_key={key}", *overrides)


HALF = "{max_loss:{callbacks.selection.keep:0.5}}"


@pytest.mark.parametrize("limit", [3, 1, 3.0])
def test_a_limit_in_batches_is_refused_where_batches_differ(
    launch_tiny: Any, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    """With twice as large batches, three of them hold twice as many rows of the data as those of uniform."""
    nothing_is_made(monkeypatch)
    told = (
        rf"trainer\.limit_train_batches must be a share .*, got {limit} batches, of 8 rows for uniform and of 16 for "
        r"max_loss\. .*limit_train_batches=0\.5"
    )
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny("task=compare", f"methods=[uniform,{HALF}]", f"+trainer.limit_train_batches={limit}")


@pytest.mark.parametrize(
    ("methods", "limit", "key"),
    [
        (HALF, 0.5, "data.batch_size"),
        (HALF, 3, "null"),
        ("{max_loss:{callbacks.selection.keep:1.0}}", 3, "data.batch_size"),
    ],
)
def test_a_limit_that_is_fair_is_not(launch_tiny: Any, methods: str, limit: float, key: str) -> None:
    """A share, and a number of batches that are all alike."""
    folder = launch_tiny(
        *("task=compare", f"methods=[uniform,{methods}]", "seeds=1", f"+trainer.limit_train_batches={limit}"),
        *(f"compare.batch_size_key={key}", "compare.equal_cost=false"),
    )
    assert [run["error"] for run in read_csv(folder / "runs.csv")] == ["", ""]


def test_what_counts_in_steps_stays_as_it_is() -> None:
    assert budget_in_steps(config(max_epochs=-1, max_steps=9, check_val_every_n_epoch=None, data="no.such.Class")) == {}


def test_an_epoch_without_a_length_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"be told in steps: trainer\.max_epochs=-1"):
        budget_in_steps(config(data="lightning.pytorch.LightningDataModule", max_epochs=3))


class Several(tiny.Data):
    """The longer of the two loaders has all rows, the other one is cycled through."""

    def train_dataloader(self) -> Any:
        rows = tiny.Points(tiny.ROWS, 0)
        return {"short": DataLoader(rows, 32), "nested": [DataLoader(rows, 8), DataLoader(rows, 48)]}


class Shortest(Several):
    def train_dataloader(self) -> Any:
        return CombinedLoader(super().train_dataloader(), "min_size")


class ByHand(tiny.Module):
    made = 0

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        ByHand.made += 1


class Wrong(tiny.Data):
    def train_dataloader(self) -> Any:
        raise ArgumentError("Wrong.sampler must be whole.")


def test_of_several_loaders_the_longest_counts() -> None:
    budget = budget_in_steps(config("tests.app.compare.test_budget.Several", max_epochs=3))
    assert (budget["max_steps"], budget["val_check_interval"]) == (3 * BATCHES, BATCHES)


def test_a_combined_loader_says_how_long_it_is() -> None:
    assert budget_in_steps(config("tests.app.compare.test_budget.Shortest", max_epochs=3))["max_steps"] == 3 * 2


def test_epochs_of_a_module_that_optimises_by_hand_must_be_told_in_steps(launch_tiny) -> None:
    """By the first run, which stops all others: it has the first module that is made."""
    by_hand, epochs = (
        "model._target_=tests.app.compare.test_budget.ByHand",
        ["trainer.max_epochs=3", "trainer.max_steps=-1"],
    )
    told = r"trainer\.max_steps must say how long .* got max_epochs=3, which comes to 36 steps .* in each batch 72\."
    ByHand.made = 0
    with pytest.raises(ManualStepsError, match=told):
        launch_tiny("task=compare", "methods=[uniform,uds]", "seeds=2", by_hand, *epochs)
    assert ByHand.made == 1


def test_steps_of_a_module_that_optimises_by_hand_are_its_own() -> None:
    for trainer in ({"max_epochs": -1, "max_steps": 48}, {"max_epochs": 3}):
        stepped = config(**trainer)
        budget = budget_in_steps(stepped) if "max_steps" in trainer else {}  # none where no batch size is known
        check_steps(stepped, budget, ByHand())


def test_a_model_is_not_made_for_the_length_of_the_loader_of_others() -> None:
    assert budget_in_steps(config(model="no.such.Module", max_epochs=3))["max_steps"] == 3 * BATCHES


@pytest.mark.parametrize("override", ["model._target_=no.such.Module", "data._target_=no.such.Data"])
def test_a_class_that_is_not_found_is_told_as_such(launch_tiny, override) -> None:
    with pytest.raises(InstantiationException, match=f"Error locating target '{override.partition('=')[2]}'"):
        launch_tiny("task=compare", "methods=[uniform]", "seeds=1", "trainer.max_epochs=2", override)


def test_an_error_of_ours_in_a_loader_stays_what_it_is() -> None:
    with pytest.raises(ArgumentError, match=r"^Wrong\.sampler must be whole\.$"):
        budget_in_steps(config(data="tests.app.compare.test_budget.Wrong", max_epochs=3))


def test_methods_with_larger_batches_take_as_many_steps(launch_tiny) -> None:
    tenth = "{max_loss:{callbacks.selection.keep:0.125}}"
    epochs = ["trainer.max_epochs=2", "trainer.max_steps=-1", "trainer.val_check_interval=1.0"]
    folder = launch_tiny(
        *("task=compare", f"methods=[uniform,{tenth}]", "seeds=1", *epochs, "trainer.check_val_every_n_epoch=1"),
        "compare.equal_cost=false",
    )
    runs = read_csv(folder / "runs.csv")
    assert [(run["steps"], float(run["rows_per_step"])) for run in runs] == [(str(2 * BATCHES), 8.0)] * 2
    curves = read_csv(folder / "curves.csv")
    assert [int(point["step"]) for point in curves] == [BATCHES, 2 * BATCHES] * 2
