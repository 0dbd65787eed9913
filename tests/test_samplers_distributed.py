"""Samplers on two ranks: one stream of draws, shared out; one history, the same on both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_select import SelectionReport
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.errors import ConfigurationError
from lightning_select.samplers.category_bandit import CategoryBandit
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.samplers.quota import Quota
from lightning_select.samplers.repeated_random import RepeatedRandom
from tests.fitting import Rows, trainer
from tests.modules import Base, Classifier
from tests.samplers.toy import ByLastLoss, Weighted

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")

ROWS, SIZE = 64, 4


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Forked processes must not inherit a pool of threads in use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Report(pl.Callback):
    """What a rank was trained on, and what its sampler knows in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: list[list[int]] = []

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        feedback = next(one for one in trainer.callbacks if isinstance(one, SamplerFeedback) and one.sampler)
        self.ids.append(feedback.interception.ids.tolist())
        self.sampler = feedback.sampler

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(self.ids))
        torch.save(self.sampler.tensors(), self.folder / f"{trainer.global_rank}.pt")


def fit(folder: Path, sampler: Any, *callbacks: Any, module: Any = None, ranks: int = 2, **kwargs: Any) -> Any:
    """Ids and what was learnt, by rank."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    extra = {"devices": ranks, "strategy": "ddp_fork"} if ranks > 1 else {}
    ckpt = kwargs.pop("ckpt_path", None)
    workers, rows = kwargs.pop("num_workers", 0), kwargs.pop("rows", Rows(rows=ROWS))
    collate = kwargs.pop("collate_fn", None)
    done = trainer(*callbacks, Report(folder), **extra, **kwargs)
    data = DataLoader(rows, SIZE, sampler=sampler, num_workers=workers, collate_fn=collate)
    done.fit(module or Classifier(), data, ckpt_path=ckpt)
    ids = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return ids, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def flat(state: Any) -> list[Any]:
    return [leaf for value in state.values() for leaf in (flat(value) if isinstance(value, dict) else [value])]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_one_stream_and_learn_the_same(workers: int, tmp_path: Path) -> None:
    sampler = LossProportional(ROWS, floor=0.1, replacement=False)
    (one, two), (here, there) = fit(tmp_path, sampler, num_workers=workers, max_epochs=2)
    assert len(one) == len(two) == 2 * ROWS // (2 * SIZE)
    for mine, yours in zip(one, two, strict=True):
        assert not set(mine) & set(yours)
    for a, b in zip(flat(here), flat(there), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_every_row_comes_once_where_a_method_says_so(tmp_path: Path) -> None:
    (one, two), _ = fit(tmp_path, RepeatedRandom(ROWS, fraction=1.0), max_epochs=1)
    assert sorted(row for ids in one + two for row in ids) == list(range(ROWS))


def test_two_ranks_draw_what_one_would_in_batches_twice_as_large(tmp_path: Path) -> None:
    (one, two), _ = fit(tmp_path / "two", RepeatedRandom(ROWS, fraction=0.5), max_epochs=2)
    torch.manual_seed(1)
    sampler = RepeatedRandom(ROWS, fraction=0.5)
    drawn = [list(sampler) for _ in range(2)]
    for epoch, rows in enumerate(drawn):
        steps = range(epoch * len(one) // 2, (epoch + 1) * len(one) // 2)
        assert sorted(row for step in steps for row in one[step] + two[step]) == sorted(rows)


def test_rows_learnt_to_zero_on_one_rank_stay_away_on_both_within_the_epoch(tmp_path: Path) -> None:
    class Split(Base):
        """Even rows are learnt at once, odd ones never."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return ((batch[1] % 2).float() + 0.0 * self(batch[0]).sum(dim=1)).mean()

    classes = Rows(rows=ROWS).batch[1]
    easy = {row for row in range(ROWS) if classes[row] % 2 == 0}
    sampler = LossProportional(ROWS, decay=0.0, num_samples=50 * 2 * SIZE)
    (one, two), _ = fit(tmp_path, sampler, module=Split(), max_epochs=1)
    gone: set[int] = set()
    for ids in (mine + yours for mine, yours in zip(one, two, strict=True)):
        assert not gone & set(ids)
        gone |= set(ids) & easy
    assert gone == easy


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    settings = {"enable_checkpointing": True, "max_epochs": 1, "num_workers": 2}
    (one, two), _ = fit(tmp_path / "two", Weighted(ROWS), keep, **settings)
    settings |= {"ranks": 1, "ckpt_path": tmp_path / "step=3.ckpt"}
    with caplog.at_level("INFO", logger="lightning_fabric.utilities.rank_zero"):
        (alone,), _ = fit(tmp_path / "one", Weighted(ROWS), **settings)
    assert "Weighted goes on with another number of ranks" in caplog.text
    # What the workers of both ranks had drawn comes first, in the order in which both would have taken it.
    drawn = [
        row
        for mine, yours in zip(one[3:7], two[3:7], strict=True)
        for pair in zip(mine, yours, strict=True)
        for row in pair
    ]
    assert [row for ids in alone for row in ids][: len(drawn)] == drawn


def test_batches_that_grow_are_refused(tmp_path: Path) -> None:
    class Grows(torch.utils.data.BatchSampler):
        def __iter__(self) -> Any:
            rows = list(self.sampler)
            yield rows[:4]
            yield rows[4:]

    data = DataLoader(Rows(rows=ROWS), batch_sampler=Grows(ByLastLoss(ROWS), SIZE, drop_last=False))
    with pytest.raises(Exception, match="ByLastLoss must see its largest batch first") as caught:
        trainer(devices=2, strategy="ddp_fork", max_epochs=1).fit(Classifier(), data)
    assert ConfigurationError.__name__ in str(caught.value)


class Answers(Base):
    """Says how often its rows were right; rows of even classes always are, whatever the model thinks."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        right = (batch[1] % 2 == 0).long()
        some = torch.tensor([1.0, 0.0, 1.0, 0.0])[: attempts_of(self.global_rank, batch_idx)]
        answers = {"correct": right, "reward": right[:, None].expand(-1, 4), "uneven": right[:, None] * some}
        return {"loss": self(batch[0]).mean(), self.kind.replace("uneven", "reward"): answers[self.kind]}


def attempts_of(rank: int, batch_idx: int) -> int:
    """Attempts at each row of a batch."""
    return 4 if rank == 0 or batch_idx % 2 else 3


@pytest.mark.parametrize(("kind", "attempts"), [("correct", 1), ("reward", 4)])
def test_ranks_tell_each_other_whole_numbers(kind: str, attempts: int, tmp_path: Path) -> None:
    sampler = Quota(ROWS, [0.5] * ROWS, k=1000, max_trials=1000)
    ids, states = fit(tmp_path, sampler, module=Answers(kind), max_epochs=1)
    trained = torch.tensor([row for rank in ids for batch in rank for row in batch]).bincount(minlength=ROWS)
    even = Rows(rows=ROWS).batch[1] % 2 == 0
    for state in states:
        assert state["trials"][:ROWS].tolist() == (attempts * trained).tolist()
        assert state["accepted"][:ROWS].tolist() == (attempts * trained * even).tolist()


def test_ranks_with_other_numbers_of_attempts_count_them_all(tmp_path: Path) -> None:
    ids, states = fit(tmp_path, Quota(ROWS, [0.5] * ROWS, k=1000, max_trials=1000), module=Answers("uneven"))
    even = Rows(rows=ROWS).batch[1] % 2 == 0
    trials, accepted = torch.zeros(ROWS, dtype=torch.float64), torch.zeros(ROWS, dtype=torch.float64)
    for rank, batches in enumerate(ids):
        for place, rows in enumerate(batches):
            for row in rows:
                trials[row] += attempts_of(rank, place % 8)
                accepted[row] += 2 * even[row]
    for state in states:
        assert state["trials"][:ROWS].tolist() == trials.tolist()
        assert state["accepted"][:ROWS].tolist() == accepted.tolist()


def test_ranks_with_other_numbers_of_attempts_have_advantages(tmp_path: Path) -> None:
    parity = (Rows(rows=ROWS).batch[1] % 2).tolist()
    sampler = CategoryBandit(ROWS, parity, alpha=1.0)
    (one, two), states = fit(tmp_path, sampler, module=Answers("uneven"), max_epochs=1)
    size = {4: 0.5 / (1 / 3) ** 0.5, 3: (4 / 9) / (1 / 3) ** 0.5}  # of the advantages of 1 0 1 0 and 1 0 1, by hand
    value = 0.0
    for place, both in enumerate(zip(one, two, strict=True)):
        found = [size[attempts_of(rank, place)] for rank in (0, 1) for row in both[rank] if not parity[row]]
        value = sum(found) / len(found) if found else value
    for state in states:
        assert state["values"].tolist() == pytest.approx([value, 0.0], rel=1e-5)


class LeavesOut:
    """A collate function that leaves out a row of the first batch."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, rows: list[Any]) -> Any:
        self.calls += 1
        return torch.utils.data.default_collate(rows[self.calls == 1 :])


def test_a_first_batch_may_lack_rows_where_the_loader_says_how_many_there_can_be(tmp_path: Path) -> None:
    rows = torch.utils.data.TensorDataset(*Rows(rows=ROWS).batch, torch.arange(ROWS))
    sampler = Quota(ROWS, [0.5] * ROWS, k=1000, max_trials=1000, id_key=2)
    settings: Any = {"module": Answers("correct"), "rows": rows, "collate_fn": LeavesOut(), "max_epochs": 1}
    ids, states = fit(tmp_path, sampler, SelectionReport(tmp_path / "report", id_key=2), **settings)
    assert [[len(batch) for batch in rank] for rank in ids] == [[SIZE - 1, *[SIZE] * (ROWS // SIZE // 2 - 1)]] * 2
    trained = torch.tensor([row for rank in ids for batch in rank for row in batch]).bincount(minlength=ROWS)
    for state in states:
        assert state["trials"][:ROWS].tolist() == trained.tolist()
