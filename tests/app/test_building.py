"""What can only be told of a module or a class when it is built."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.errors import InstantiationException

from lightning_select.app.building import OtherLightningError
from tests.app import tiny
from tests.app.conftest import TINY, read_csv

OWN = [one for one in TINY if "model._target_" not in one]


class Root:
    """Stands for the LightningModule of the other package."""

    __module__ = "pytorch_lightning.core.module"


class Other(Root):
    """A module of the user's."""


def test_a_module_of_the_other_lightning_takes_its_trainer(launch: Any) -> None:
    told = r"got lightning\.pytorch\.Trainer\. Set trainer\._target_=pytorch_lightning\.Trainer"
    for task in ("fit", "compare"):
        with pytest.raises(OtherLightningError, match=told):
            launch(*OWN, "model._target_=tests.app.test_building.Other", f"task={task}", folder=task)


@pytest.mark.parametrize("target", ["nowhere.Module", "tests.app.tiny.Modul"])
def test_a_class_that_is_not_found_ends_the_comparison_at_once(launch: Any, tmp_path: Any, target: str) -> None:
    with pytest.raises(InstantiationException, match=f"Error locating target '{target}'"):
        launch(*OWN, f"model._target_={target}", "task=compare", "methods=[uniform,max_loss]", "seeds=2")
    told = (tmp_path / "out" / "errors.txt").read_text(encoding="utf-8")
    assert (told.count("uniform, seed 0:"), told.count(", seed ")) == (1, 1)
    assert read_csv(tmp_path / "out" / "runs.csv") == []


def test_a_class_that_only_one_method_lacks_costs_only_its_runs(launch_tiny: Any) -> None:
    other = "{other:{callbacks/selection:none,model._target_:nowhere.Module}}"
    folder = launch_tiny("task=compare", f"methods=[uniform,{other}]", "seeds=1")
    errors = [run["error"] for run in read_csv(folder / "runs.csv")]
    assert [error[:22] for error in errors] == ["", "InstantiationException"]
    assert tiny.ROWS_SEEN
