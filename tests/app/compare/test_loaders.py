from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler

from lightning_select.app.compare.loaders import pin_order, share_sizes
from tests.app import tiny
from tests.app.conftest import TINY, read_csv

OVERRIDES = [override for override in TINY if "data" not in override]
QUARTER = "{max_loss:{callbacks.selection.keep:0.25}}"


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than the training."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


HERE = "tests.app.compare.test_loaders"


class OneSize(tiny.Data):
    """Uses the size for all of its loaders, and keeps the last batch short."""

    def val_dataloader(self) -> Any:
        return DataLoader(tiny.Points(30, 1), self.batch_size)

    def test_dataloader(self) -> Any:
        return [DataLoader(tiny.Points(30, 2), self.batch_size, drop_last=True)]


class SizeOfItsOwn(tiny.Data):
    """Evaluates in batches that happen to be as large as the enlarged ones of a method."""

    def val_dataloader(self) -> Any:
        return DataLoader(tiny.Points(64, 1), 32)


class Runs(BatchSampler):
    """A batch sampler of the user's own."""


class OwnBatches(tiny.Data):
    def val_dataloader(self) -> Any:
        rows = tiny.Points(32, 1)
        return DataLoader(rows, batch_sampler=Runs(SequentialSampler(rows), self.batch_size, False))


class Sizes(tiny.Module):
    """Its metrics are the batch sizes."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/acc", float(len(batch["y"])), batch_size=1, reduce_fx="max")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/acc", float(len(batch["y"])), batch_size=1, reduce_fx="min")


def compare(launch: Any, data: str, *overrides: str) -> list[dict[str, str]]:
    where = (f"model._target_={HERE}.Sizes", f"data._target_={HERE}.{data}")
    settings = (f"methods=[uniform,{QUARTER}]", "seeds=1", "compare.equal_cost=false")
    return read_csv(launch(*OVERRIDES[1:], *where, "task=compare", *settings, *overrides) / "runs.csv")


def test_all_are_evaluated_in_batches_of_the_same_size(launch, capsys) -> None:
    """Uniform's 8 rows, although the quarter draws 32: the largest of validation, the smallest of the test."""
    runs = compare(launch, "OneSize")
    assert [run["error"] for run in runs] == ["", ""]
    assert [float(run["final"]) for run in runs] == [8, 8]
    assert [run["validated"].split()[:2] for run in runs] == [["30", "8"]] * 2
    assert {run["evaluated"] for run in runs} == {"val:8 test:8"}
    assert "in batches of" not in capsys.readouterr().out


def test_a_size_that_is_not_that_of_training_stays(launch) -> None:
    assert {run["evaluated"] for run in compare(launch, "SizeOfItsOwn")} == {"val:32 test:32"}


def test_batches_that_cannot_be_shared_are_told(launch, capsys) -> None:
    runs = compare(launch, "OwnBatches")
    assert [run["validated"].split()[1] for run in runs] == ["8", "32"]
    assert "max_loss was validated in batches of 32, uniform of 8: a metric that" in capsys.readouterr().out


def test_a_loader_that_is_shared_keeps_everything_but_its_size() -> None:
    data = OneSize(32)
    evaluated = share_sizes(data, tiny.Module(), "val:8 test:4")
    (loader,) = data.test_dataloader()
    assert [len(batch["y"]) for batch in loader] == [4] * 7  # of 30 rows, the last two dropped
    assert [len(batch["y"]) for batch in data.val_dataloader()] == [8, 8, 8, 6]
    assert evaluated() == "test:4 val:8"


def test_nobody_is_told_a_size_without_an_example() -> None:
    data = OneSize(32)
    evaluated = share_sizes(data, tiny.Module(), "")
    assert next(iter(data.val_dataloader()))["y"].shape == (30,)
    assert evaluated() == "val:32"


def drawn(loader: Any) -> list[int]:
    return [row for batch in loader for row in batch["id"].tolist()]


def test_loaders_made_anew_go_on_with_another_order() -> None:
    passes = []
    for noise in (False, True):
        data = tiny.Data()
        pin_order(data, 3, lambda loaders: None)
        for _ in range(3):
            passes.append(drawn(data.train_dataloader()))
            torch.rand(noise * 5)
    assert passes[:3] == passes[3:]
    assert len({tuple(one) for one in passes}) == 3


class Several(tiny.Data):
    def train_dataloader(self) -> Any:
        rows = tiny.Points(tiny.ROWS, 0)
        batches = BatchSampler(torch.utils.data.RandomSampler(rows), 8, False)
        return {"one": DataLoader(rows, 8, shuffle=True), "more": [DataLoader(rows, batch_sampler=batches)]}


def test_each_of_several_loaders_has_an_order_of_its_own() -> None:
    orders = []
    for noise in (3, 7):
        data = Several()
        pin_order(data, 3, lambda loaders: None)
        torch.manual_seed(noise)
        loaders = data.train_dataloader()
        orders.append((drawn(loaders["one"]), drawn(loaders["more"][0])))
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]


class Shuffled(Sampler[int]):
    """Draws from NumPy's generator, which nobody pins."""

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.permutation(tiny.ROWS).tolist())  # noqa: NPY002

    def __len__(self) -> int:
        return tiny.ROWS


class FromNumPy(tiny.Data):
    def train_dataloader(self) -> Any:
        return DataLoader(tiny.Points(tiny.ROWS, 0), self.batch_size, sampler=Shuffled())


def test_an_order_that_a_method_changes_later_is_noticed(launch) -> None:
    noisy = "{noisy:['callbacks/selection=none','+callbacks.noisy._target_=tests.app.compare.test_loaders.Noisy']}"
    methods = ("task=compare", f"methods=[uniform,dynamic_loss,{noisy}]", "seeds=1", "trainer.max_steps=16")
    folder = launch(
        *OVERRIDES, "data._target_=tests.app.compare.test_loaders.FromNumPy", *methods, "compare.equal_cost=false"
    )
    errors = [run["error"] for run in read_csv(folder / "runs.csv")]
    told = "unfair: its rows came in another order: not that of uniform within the first 8 rows of pass 2"
    assert errors == ["", "", told]


class Noisy(tiny.Note):
    """Draws from NumPy's generator too."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        np.random.random()  # noqa: NPY002
