from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from lightning_select.app.compare.fairness import Fingerprint, unfairness
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.witness import differing_order
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
        ("+trainer.reload_dataloaders_every_n_epochs=1", "trainer.reload_dataloaders_every_n_epochs as uniform has"),
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
DRAWN = "3 1 2 5 0.size:8 0.1.8:aa 0.1.64:bb 0.2.8:cc 1.size:8 1.1.8:dd"
RUN = Run("a", 0, train_rows=96, drawn=DRAWN, validated="32 32 abcd", points=CURVE)


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
        ({"drawn": "3 1 2 5 0.size:8 0.1.8:aa 0.1.64:bb 0.4.8:cc"}, False, True),
        ({"drawn": "3 1 2 5 0.size:8 0.1.8:aa 0.1.64:ff"}, False, False),  # it parts after the first 8
        ({"drawn": "3 1 2 5 0.size:8 0.2.8:ff"}, False, False),  # in the second pass
        ({"drawn": "3 1 2 5 0.size:80 0.2.8:ff"}, False, True),  # which other sizes may begin elsewhere
        ({"drawn": "3 1 2 5 0.size:8 1.size:8 1.1.8:ff"}, False, False),  # in the second loader
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
    words = fingerprint.order.split()
    assert [word.partition(":")[0] for word in words[8:]] == ["0.size", "0.1.8", "0.1.64", "0.2.8", "0.2.64"]


def order(seeds: list[int], size: int = 8) -> str:
    """What is noted of passes in the orders that these seeds give, each of them by a loader of its own."""
    fingerprint = Fingerprint(0)
    for seed in seeds:
        loader = tiny.Data(size).train_dataloader()
        vars(loader.sampler)["generator"] = torch.Generator().manual_seed(seed)
        fingerprint.watch({"one": loader})
        list(loader)
    return fingerprint.order


def test_orders_that_part_later_are_noticed() -> None:
    assert differing_order(order([1, 2]), order([1, 2])) == ""
    assert differing_order(order([1, 2], size=32), order([1, 2])) == ""
    assert differing_order(order([1, 3]), order([1, 2])) == "not that of uniform within the first 8 rows of pass 2"
    assert differing_order(order([3, 2]), order([1, 2])).startswith(" ".join(order([3]).split()[:8]))


def test_runs_end_early_where_all_may() -> None:
    brief = replace(RUN, points=CURVE[1:])
    assert unfairness(brief, RUN, own_order=False, may_stop=True) == ""


def test_methods_that_stop_early_alike_are_compared(launch_tiny, capsys) -> None:
    stop = ("+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.stop.monitor=val/acc")
    rule = ("+callbacks.stop.patience=1", "+callbacks.stop.min_delta=9.0", "+callbacks.stop.mode=max")
    folder = launch_tiny(
        "task=compare", "methods=[uniform,dynamic_loss]", "seeds=1", *stop, *rule, "compare.equal_cost=false"
    )
    assert "Notice: runs may end early (EarlyStopping)" in capsys.readouterr().out
    assert [(run["steps"], run["error"]) for run in read_csv(folder / "runs.csv")] == [("4", "")] * 2
