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
        ({"max_epochs": 3, "limit_train_batches": 7, "overfit_batches": 5}, 15, 5),
        ({"max_epochs": 3, "limit_train_batches": 7, "overfit_batches": 0.0}, 21, 7),
        ({"max_epochs": 2, "overfit_batches": 0.5}, BATCHES, BATCHES // 2),
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


@pytest.mark.parametrize("limit", [{"limit_train_batches": 0}, {"limit_train_batches": 0.0}, {"overfit_batches": 0.01}])
def test_a_limit_leaves_a_batch(limit) -> None:
    ((name, value),) = limit.items()
    told = (
        rf"trainer\.{name} must leave a batch to train on .* got {value} of the {BATCHES} batches .*: ~trainer\.{name}"
    )
    with pytest.raises(ConfigurationError, match=told):
        budget_in_steps(config(max_epochs=2, **limit))


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
