from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from lightning_select.app.compare.counting import counted_rows
from tests.app.conftest import read_csv


class Base:
    def training_step(self, batch, batch_idx=0):
        return batch.sum()


class Child(Base):
    def selection_step(self, batch):
        return self.training_step(batch)


class Grandchild(Child):
    def training_step(self, batch, batch_idx=0):
        return super().training_step(batch)


BATCH = torch.ones(5, 2)


def test_rows_of_every_step_count_whoever_runs_it() -> None:
    module = Child()
    with counted_rows(Child) as count:
        module.training_step(BATCH, 0)
        copy.deepcopy(module).training_step(batch=BATCH)
    assert count.rows == 10


def test_a_step_within_a_step_counts_once() -> None:
    with counted_rows(Grandchild, Base, Child, Base) as count:
        Grandchild().training_step(BATCH)
        Grandchild().selection_step(BATCH)
        Base().training_step(BATCH)
    assert count.rows == 15


def test_a_failing_step_does_not_stop_the_count() -> None:
    module = Child()
    with counted_rows(Child) as count:
        with pytest.raises(AttributeError, match="sum"):
            module.training_step([BATCH])
        module.training_step(BATCH)
    assert count.rows == 10


def test_classes_are_as_before_afterwards() -> None:
    before = [dict(vars(kind)) for kind in (Base, Child, Grandchild)]
    with counted_rows(Grandchild, Base, Child):
        assert vars(Child) != before[1]
    assert [dict(vars(kind)) for kind in (Base, Child, Grandchild)] == before


def test_a_pass_that_records_gradients_is_followed_by_a_backward_pass() -> None:
    module = Child()
    with counted_rows(Child) as count:
        module.training_step(BATCH, 0)
        with torch.no_grad():
            module.selection_step(BATCH)
        with torch.inference_mode():
            module.training_step(BATCH, 0)
    assert (count.rows, count.trained, count.cost) == (15, 5, 15 + 2 * 5)


def test_scoring_probes_of_a_report_alone_are_not_counted(launch_tiny: Any) -> None:
    """Those of a method count, with a report or without. One probe of two rows takes gradients, and is counted."""
    settings = ("task=compare", "methods=[uniform,dynamic_loss]", "seeds=1", "compare.equal_cost=false")
    plain = read_csv(launch_tiny(*settings, folder="plain") / "runs.csv")
    reported = read_csv(launch_tiny(*settings, "compare.reports=1", folder="reported") / "runs.csv")
    rows = [[(run["samples"], run["trained"]) for run in runs] for runs in (plain, reported)]
    assert rows == [[("48", "48"), ("66", "50")], [("50", "50"), ("66", "50")]]
