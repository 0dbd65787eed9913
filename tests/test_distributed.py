"""Two ranks on the CPU, each a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.holdout import Holdout
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.fitting import Rows, same, trainer
from tests.modules import Classifier, features

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")


class EveryOther(Sampler):
    """In order, every other row for each of two ranks: together they see in each step what one sees in 8 rows."""

    def __init__(self, rows: int = 16) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows // 2

    def __iter__(self) -> Iterator[int]:
        return iter(range(torch.distributed.get_rank(), self.rows, 2))


class Half(Dataset):
    def __init__(self, rows: int = 16) -> None:
        self.x, self.y = features(rows=rows)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, position: int) -> Any:
        return self.x[position], self.y[position]


def fit(folder: Path, ranks: int, callbacks: list[pl.Callback], data: DataLoader, **kwargs: Any) -> dict[str, Any]:
    """Fit on one or two ranks; what each rank ended with comes back through files, since ranks are processes."""
    torch.manual_seed(1)
    module = Classifier()
    extra = {"devices": ranks, "strategy": "ddp_fork"} if ranks > 1 else {}
    done = trainer(*callbacks, Report(folder), **(extra | {"max_epochs": 1} | kwargs))
    torch.manual_seed(1)
    done.fit(module, data)
    return {rank: torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)}


class Report(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Any] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.rows.append(batch[0].clone())

    def on_train_end(self, trainer, pl_module) -> None:
        weights = {key: value.clone() for key, value in pl_module.state_dict().items()}
        last = [getattr(callback, "last_weights", None) for callback in trainer.callbacks]
        report = {
            "weights": weights,
            "rows": self.rows,
            "last": next((value for value in last if value is not None), None),
            "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
            "attributes": set(vars(pl_module)),
        }
        torch.save(report, self.folder / f"{trainer.global_rank}.pt")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Forked processes must not inherit a pool of threads in use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_law_4_two_ranks_of_half_a_batch_reweight_like_one_of_the_whole(tmp_path: Path) -> None:
    def callback() -> list[pl.Callback]:
        return [LossReweighting(DynamicLoss(temperature=0.5))]

    data = DataLoader(Half(), batch_size=8, shuffle=False)
    halves = DataLoader(Half(), batch_size=4, sampler=EveryOther())
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = fit(tmp_path / "one", 1, callback(), data)[0]
    two = fit(tmp_path / "two", 2, callback(), halves, use_distributed_sampler=False)
    for key, value in one["weights"].items():
        torch.testing.assert_close(two[0]["weights"][key], value, rtol=1e-6, atol=1e-6)
    assert same(two[0]["weights"], two[1]["weights"])
    weights = torch.cat([two[0]["last"], two[1]["last"]])
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    torch.testing.assert_close(weights.max() / weights.min(), torch.tensor(1 / 0.5).exp())


def test_law_1_on_two_ranks(tmp_path: Path) -> None:
    data = DataLoader(Half(), batch_size=4, shuffle=True)
    results = []
    for number, callbacks in enumerate(([], [LossReweighting(torch.ones_like)])):
        (tmp_path / str(number)).mkdir()
        results.append(fit(tmp_path / str(number), 2, callbacks, data)[0]["weights"])
    assert same(*results)


def test_ranks_select_rows_of_their_own_and_equally_many(tmp_path: Path) -> None:
    data = DataLoader(Half(32), batch_size=8, shuffle=True)
    callbacks: list[pl.Callback] = [BatchSelection(Loss(), TopK(), keep=3), LossReweighting(DynamicLoss())]
    two = fit(tmp_path, 2, callbacks, data, log_every_n_steps=1)
    assert [len(rows) for rows in two[0]["rows"]] == [len(rows) for rows in two[1]["rows"]] == [3, 3]
    mine = {tuple(row.tolist()) for rows in two[0]["rows"] for row in rows}
    theirs = {tuple(row.tolist()) for rows in two[1]["rows"] for row in rows}
    assert not mine & theirs
    assert same(two[0]["weights"], two[1]["weights"])
    assert not {"training_step", "log", "log_dict"} & two[0]["attributes"] - {"training_step"}


def test_a_last_batch_of_fewer_rows_on_every_rank(tmp_path: Path) -> None:
    data = DataLoader(Half(22), batch_size=8, shuffle=False)
    two = fit(tmp_path, 2, [LossReweighting(DynamicLoss())], data)
    assert [len(rows) for rows in two[0]["rows"]] == [8, 3]
    assert two[0]["last"].shape == (3,)
    torch.testing.assert_close(torch.cat([two[0]["last"], two[1]["last"]]).mean(), torch.tensor(1.0))
    assert all(value.isfinite().all() for value in two[0]["weights"].values())


@pytest.mark.filterwarnings("ignore:ReducibleLoss.reference must know the data better")
def test_a_table_and_a_holdout_on_two_ranks(tmp_path: Path) -> None:
    for name, reference in (("table", torch.zeros(32)), ("holdout", Holdout(epochs=1))):
        (tmp_path / name).mkdir()
        callbacks = [BatchSelection(ReducibleLoss(reference), TopK(), keep=3)]
        two = fit(tmp_path / name, 2, callbacks, DataLoader(Half(32), batch_size=8, shuffle=True))
        assert same(two[0]["weights"], two[1]["weights"])
        assert [len(rows) for rows in two[1]["rows"]] == [3, 3]


def test_law_2_every_rank_goes_on_with_its_own_memory(tmp_path: Path) -> None:
    def callbacks(keep: Path) -> list[pl.Callback]:
        saved = pl.callbacks.ModelCheckpoint(keep, filename="{epoch}", save_top_k=-1)
        return [BatchSelection(NuclearNorm(), Diverse(capacity=8), keep=3), saved]

    data = DataLoader(Rows(rows=32), batch_size=8, shuffle=False)
    for name in ("straight", "resumed"):
        (tmp_path / name).mkdir()
    settings: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True}
    straight = fit(tmp_path / "straight", 2, callbacks(tmp_path / "straight"), data, **settings)
    torch.manual_seed(7)
    done = trainer(
        *callbacks(tmp_path / "resumed"), Report(tmp_path / "resumed"), devices=2, strategy="ddp_fork", **settings
    )
    done.fit(Classifier(), data, ckpt_path=tmp_path / "straight" / "epoch=0.ckpt")
    for rank in (0, 1):
        resumed = torch.load(tmp_path / "resumed" / f"{rank}.pt", weights_only=False)
        assert same(straight[rank]["weights"], resumed["weights"])
        assert all(torch.equal(a, b) for a, b in zip(straight[rank]["rows"][2:], resumed["rows"], strict=True))


def test_the_environment_is_as_it_was() -> None:
    assert "LIGHTNING_SELECT" not in os.environ
