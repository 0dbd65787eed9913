"""Traps of several ranks; where it is enough, one process that is told to be one of two."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_select import BatchSelection, LossReweighting, distributed
from lightning_select.callbacks.gathering import Gathering
from lightning_select.samplers.repeated_random import RepeatedRandom
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.fitting import Rows, trainer
from tests.modules import Base, Classifier
from tests.test_every_sampler import EVERY, ROWS, make
from tests.test_samplers_distributed import Report

SIZE = 4
ALL = 64
GLOO = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Forked processes must not inherit a pool of threads in use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def two_ranks() -> dict[str, Any]:
    """A rank that waits for the other gives up after a minute."""
    patience = datetime.timedelta(seconds=60)
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=patience)
    return {"devices": 2, "strategy": strategy, "max_epochs": 1}


@EVERY
def test_ranks_seeded_apart_share_one_stream(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would have both draw for themselves and take every other row of what each drew."""

    def shares(*seeds: int) -> list[list[int]]:
        found = []
        for rank, seed in enumerate(seeds):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            torch.manual_seed(seed)
            found.append(list(make(name, seed=3)))
        return found

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    one, two = shares(100, 101)
    assert [one, two] == shares(7, 7)
    assert one != two
    assert len(one) == len(two) == len(make(name))
    if name == "repeated_random":
        assert len({*one, *two}) == len(one) + len(two)


class Bare:
    """Makes batches of a sampler, and is no ``BatchSampler``."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[list[int]]:
        return iter(BatchSampler(self.rows, SIZE, drop_last=False))

    def __len__(self) -> int:
        return len(self.rows) // SIZE


@GLOO
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    ("wrapped", "theirs"), [(False, False), (True, True)], ids=["no sampler of Lightning's", "a batch sampler"]
)
def test_each_rank_trains_on_half_whatever_lightning_is_told(wrapped: bool, theirs: bool, tmp_path: Path) -> None:
    sampler, data = RepeatedRandom(ALL, fraction=1.0), Rows(rows=ALL)
    rows = DataLoader(data, batch_sampler=Bare(sampler)) if wrapped else DataLoader(data, SIZE, sampler=sampler)
    trainer(Report(tmp_path), use_distributed_sampler=theirs, **two_ranks()).fit(Classifier(), rows)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(one) == len(two) == ALL // SIZE // 2
    assert sorted(row for ids in one + two for row in ids) == list(range(ALL))


class Gathers(Base):
    """A contrastive step, which needs the rows of the other rank in every pass; a rank alone would wait forever."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(6)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        mine = F.normalize(self(self.norm(batch[0])), dim=1)
        everyone = self.all_gather(mine).flatten(0, 1)
        own = torch.arange(len(mine)) + len(mine) * self.global_rank
        return F.cross_entropy(mine @ everyone.T / 0.3, own)


@GLOO
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional.all_gather is deprecated")  # Lightning's own call
def test_a_step_that_asks_the_other_rank_is_scored_on_both_as_often(tmp_path: Path) -> None:
    class Runs(Gathers):
        runs = 0

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            Runs.runs += 1
            return super().training_step(batch, batch_idx)

        def on_train_end(self) -> None:
            told = {"runs": Runs.runs, "steps": self.global_step, "seen": float(self.norm.num_batches_tracked)}
            (tmp_path / f"{self.global_rank}.json").write_text(json.dumps(told))

    callbacks = [BatchSelection(Loss(), TopK(), keep=2), LossReweighting(lambda losses: losses)]
    trainer(*callbacks, **two_ranks()).fit(Runs(), DataLoader(Rows(rows=ALL), SIZE))
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    assert one["steps"] == one["seen"] == ALL // SIZE // 2
    assert one["runs"] > 2 * one["steps"]


def test_ids_keep_their_digits_whatever_the_losses_are_kept_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_gather(lines: list[Tensor], mine: Tensor) -> None:
        assert all(line.dtype == mine.dtype and line.shape == mine.shape for line in lines)
        for line in lines:
            line.copy_(mine)

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "largest", lambda value, device: 4)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    gathering, ids = Gathering("test"), torch.tensor([2049, 16_777_217, 2**40 + 1])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        values = gathering.values(torch.ones(3, dtype=dtype))
        assert values.dtype == dtype
        assert gathering.ids(ids).tolist() == [*ids.tolist(), -1] * 2
    assert gathering.ids(ids).dtype == torch.int64


def test_ranks_have_as_many_rows_where_they_do_not_divide_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 7)
    lengths = []
    for rank in range(7):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        lengths.append(len(list(make("repeated_random"))))
    assert lengths == [len(make("repeated_random"))] * 7
    assert 7 * (lengths[0] - 1) < make("repeated_random").rows_of_epoch() <= 7 * lengths[0] <= ROWS + 7
