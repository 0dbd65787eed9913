from __future__ import annotations

import sys

import pytest
import torch

from lightning_select.app.fairness import Fingerprint, unfairness
from lightning_select.app.recorder import Point
from lightning_select.app.runs import Run
from lightning_select.errors import ConfigurationError
from tests.app import tiny
from tests.app.conftest import TINY, read_csv

OWN = [*(one for one in TINY[1:] if "data" not in one), "data=none", "model._target_=tests.app.tiny.Own"]
ARGUMENTS = ("+model.validate=1", "+model.rows=96", "+model.shuffle=true")


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the training."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data._target_=tests.app.tiny.Named", "methods must leave data._target_ as uniform has it, got '.*Named' for"),
        ("seed=7", "methods must leave seed as uniform has it, got 7 for other and 0 for uniform"),
        ("trainer.max_steps=9", "methods must leave trainer.max_steps as uniform has it, got 9 for other and 6"),
        ("trainer.val_check_interval=1", "methods must leave trainer.val_check_interval as uniform has it"),
        ("+trainer.limit_val_batches=1", "trainer.limit_val_batches as uniform has it, got 1 for other and None"),
        ("compare.metric=val/loss", "methods must leave compare.metric as uniform has it"),
        ("threads=2", "methods must leave threads as uniform has it"),
    ],
)
def test_methods_that_are_given_something_else_are_refused(launch_tiny, override, told) -> None:
    other = f"{{other:['callbacks/selection=none','{override}']}}"
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny("task=compare", f"methods=[uniform,{other}]", "seeds=2")
    assert not tiny.ROWS_SEEN


def test_batch_size_and_other_arguments_of_the_trainer_are_a_methods_own(launch_tiny) -> None:
    changes = ("callbacks/selection=none", "data.batch_size=16", "+trainer.gradient_clip_val=1.0", "model.lr=0.1")
    other = f"{{other:[{','.join(map(repr, changes))}]}}"
    folder = launch_tiny("task=compare", f"methods=[uniform,{other}]", "seeds=1", "+model.lr=0.01")
    assert [(run["method"], run["error"]) for run in read_csv(folder / "runs.csv")] == [
        ("uniform", ""),
        ("other", ""),
        ("uniform (cost of other)", ""),
    ]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.rows=48", "unfair: its training data have 48 rows, those of uniform 96"),
        ("model.validate=5", "unfair: it was evaluated on other rows than uniform"),
        ("model.shuffle=false", "unfair: its rows came in another order: 0 1 2 3 4 5 6 7, those of uniform "),
        (
            "+callbacks.brief._target_=tests.app.tiny.Brief",
            "unfair: it was evaluated 2 times, uniform 3 times",
        ),
    ],
)
def test_runs_on_other_data_count_as_failed(launch, capsys, override, told) -> None:
    other = f"{{other:['callbacks/selection=none','{override}']}}"
    methods = f"methods=[uniform,{other},dynamic_loss]"
    folder = launch(*OWN, *ARGUMENTS, "task=compare", methods, "seeds=1", "compare.batch_size_key=null")
    errors = {run["method"]: run["error"] for run in read_csv(folder / "runs.csv")}
    assert errors["other"].startswith(told)
    assert errors["uniform"] == errors["dynamic_loss"] == ""
    assert f"other failed in 1 run: {told}" in capsys.readouterr().out


CURVE = tuple(Point(step, step, 1.0, 0.5) for step in range(3))
RUN = Run("a", 0, train_rows=96, drawn="3 1 2 5", validated="32 32 abcd", points=CURVE)


@pytest.mark.parametrize(
    ("changes", "own_order", "fair"),
    [
        ({}, False, True),
        ({"points": (*CURVE, CURVE[0])}, False, True),
        ({"drawn": "3 1"}, False, True),  # as far as both are known
        ({"drawn": ""}, False, True),
        ({"drawn": "3 2"}, False, False),
        ({"drawn": "3 2"}, True, True),
        ({"validated": "32 16 ffff"}, False, True),  # batches of another size may be padded in another way
        ({"validated": "32 32 ffff"}, False, False),
        ({"validated": "31 32 abcd"}, False, False),
        ({"train_rows": None}, False, False),
        ({"points": CURVE[1:]}, True, False),
    ],
)
def test_what_is_unfair(changes, own_order, fair) -> None:
    run = Run(**{field: getattr(RUN, field) for field in RUN.__dataclass_fields__} | changes)
    assert (unfairness(run, RUN, own_order=own_order) == "") is fair


def test_listening_changes_nothing() -> None:
    heard = []
    for watched in (False, True):
        loader = tiny.Data().train_dataloader()
        vars(loader.sampler)["generator"] = torch.Generator().manual_seed(3)
        fingerprint = Fingerprint(0)
        if watched:
            fingerprint.watch(loader)
        heard.append([batch["id"].tolist() for _ in range(2) for batch in loader])
    assert heard[0] == heard[1]
    assert fingerprint.drawn == [row for batch in heard[0] for row in batch][:8]
    assert fingerprint.train_rows == tiny.ROWS
