"""Traps of the data flow: epochs that change their length, draws before the hooks, loaders of other kinds."""

from __future__ import annotations

import collections
import inspect
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_select import BatchSelection, LossReweighting, SelectionReport
from lightning_select.errors import ConfigurationError, TrainingStepContractError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.info_batch import InfoBatch
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.fitting import Rows, trainer
from tests.modules import Base, Classifier
from tests.samplers.toy import ByLastLoss, Plain
from tests.test_every_sampler import EVERY, ROWS, make

SIZE = 8
LENGTHS = {"shrinking": [64, 48, 32], "growing": [32, 48, 64]}


class Changing(Plain):
    """Epochs of other lengths, each known at the end of the one before."""

    constant_length = False  # type: ignore[assignment]

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(64)
        self.lengths, self.past = lengths, 0

    def rows_of_epoch(self) -> int:
        return self.lengths[min(self.past, 2)]

    def end_epoch(self) -> None:
        self.past += 1


class Counts(Classifier):
    """Counts batches and evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: collections.Counter[int] = collections.Counter()
        self.evaluated: list[int] = []
        self.planned: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.batches[self.current_epoch] += 1
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluated.append(self.current_epoch)
        self.planned.append(int(self.trainer.num_training_batches))


def counted(lengths: list[int], **kwargs: Any) -> Counts:
    module = Counts()
    data = DataLoader(Rows(rows=64), SIZE, sampler=Changing(lengths))
    trainer(max_epochs=3, num_sanity_val_steps=0, **kwargs).fit(module, data, DataLoader(Rows(rows=SIZE), SIZE))
    return module


@pytest.mark.parametrize("kind", LENGTHS)
def test_epochs_that_change_their_length_are_trained_and_evaluated_whole(kind: str) -> None:
    module = counted(LENGTHS[kind], reload_dataloaders_every_n_epochs=1)
    assert [module.batches[epoch] for epoch in range(3)] == [rows // SIZE for rows in LENGTHS[kind]]
    assert module.evaluated == [0, 1, 2]
    assert module.planned == [rows // SIZE for rows in LENGTHS[kind]]  # what a progress bar shows


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"reload_dataloaders_every_n_epochs": 2}, {"check_val_every_n_epoch": None, "val_check_interval": 3}],
    ids=str,
)
def test_where_the_trainer_would_cut_them_they_are_refused(kind: str, settings: dict[str, Any]) -> None:
    """Counting steps to the next evaluation mends what is skipped, and still cuts off an epoch that grows."""
    with pytest.raises(ConfigurationError, match=r"Changing must be used with Trainer\(reload_dataloaders_every_n_ep"):
        counted(LENGTHS[kind], **settings)


class Notes(OnlineSampler):
    """Notes how each draw was asked for."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.asked: list[tuple[int, bool]] = []

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        self.asked.append((count, self.fed))
        return Drawn(torch.randint(self.rows, (count,), generator=generator))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_is_ready_before_anything_is_drawn(workers: int) -> None:
    """Workers are handed their first batches while the loader is set up, before ``on_train_start``."""
    begun: list[int] = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            begun.append(len(sampler.asked))

    sampler = Notes(64)
    trainer(Watch(), max_epochs=1).fit(
        Classifier(), DataLoader(Rows(rows=64), SIZE, sampler=sampler, num_workers=workers)
    )
    assert begun == [2 * workers]
    assert sampler.asked == [(SIZE, True)] * 8


@EVERY
def test_every_iteration_is_a_fresh_generator(name: str) -> None:
    """A ``BatchSampler`` of torch asks for an iterator once per batch, so one that starts over would never end."""
    sampler = make(name)
    assert inspect.isgeneratorfunction(type(sampler).__iter__)
    assert iter(sampler) is not iter(sampler)
    assert len(list(BatchSampler(make(name), SIZE, drop_last=False))) == -(-len(make(name)) // SIZE)
    assert len(list(DataLoader(Rows(rows=ROWS), SIZE, sampler=make(name)))) == -(-len(make(name)) // SIZE)


class Iterates(Base):
    """Takes its batches itself, so that nobody sees them on the way."""

    def training_step(self, dataloader_iter: Any) -> Tensor:
        batch, _, _ = next(dataloader_iter)
        return self(batch[0]).square().mean()


@pytest.mark.parametrize(
    ("callbacks", "sampler"),
    [
        ([BatchSelection(Loss(), TopK(), keep=2)], None),
        ([LossReweighting(lambda losses: losses)], None),
        ([SelectionReport()], None),
        ([], ByLastLoss(64)),
    ],
    ids=["selection", "reweighting", "report", "sampler"],
)
def test_a_step_that_takes_its_batches_itself_is_told(callbacks: Any, sampler: Any, tmp_path: Any) -> None:
    module = Iterates()
    before = set(vars(module))
    with pytest.raises(TrainingStepContractError, match="got the argument 'dataloader_iter'"):
        trainer(*callbacks, default_root_dir=tmp_path).fit(module, DataLoader(Rows(rows=64), SIZE, sampler=sampler))
    assert "training_step" not in set(vars(module)) - before


def test_a_schedule_planned_on_the_length_of_training_ends_where_training_ends() -> None:
    class Planned(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            steps = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    sampler = InfoBatch(64)
    done = trainer(max_epochs=4)
    done.fit(Planned(), DataLoader(Rows(rows=64), SIZE, sampler=sampler))
    assert sampler.passes > 4  # rows were left out, and no step with them
    assert done.optimizers[0].param_groups[0]["lr"] == 0
