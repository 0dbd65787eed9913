"""Ids of rows come from whatever a sampler gives for positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lightning_select import SelectionReport
from lightning_select.errors import RowIdError
from lightning_select.samplers.drawn import Drawn
from tests.callbacks.test_sampler_feedback import Journal
from tests.fitting import Rows, trainer
from tests.modules import Base, Classifier
from tests.samplers.toy import ByLastLoss


class Named(Rows):
    """Rows by any name of a position."""

    def __getitem__(self, position: Any) -> Any:
        return super().__getitem__(int(position[0] if isinstance(position, tuple) else position))


def named(make: Callable[[int], Any]) -> DataLoader:
    return DataLoader(Named(rows=16), 8, sampler=[make(row) for row in range(16)])


def test_positions_may_be_tensors_of_one_number(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path)
    trainer(report).fit(Classifier(), named(lambda row: torch.tensor([row])))
    assert report.noting.record.table().offered.tolist() == [2] * 16


@pytest.mark.parametrize("make", [str, lambda row: (row, 0), lambda row: str(row).encode()])
def test_positions_that_are_no_whole_numbers(make: Callable[[int], Any], tmp_path: Path) -> None:
    with pytest.raises(RowIdError, match=r"Row ids must be .*whole number.* from the loader's sampler"):
        trainer(SelectionReport(tmp_path)).fit(Classifier(), named(make))


class Graded(ByLastLoss):
    """Different rows in every batch, each with a weight by its number; what was drawn is kept."""

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        ids = torch.randperm(self.rows, generator=generator)[:count]
        self.drawn = [*getattr(self, "drawn", []), ids.tolist()]
        return Drawn(ids, weight(ids))


class Sorted(Base):
    """Has its rows with their number, and sorts them in the hook, if at all."""

    by_hand = False

    def __init__(self, hook: bool) -> None:
        super().__init__()
        self.hook = hook
        self.told: list[tuple[list[int], list[float]]] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        order = batch[0][:, 0].argsort()
        return [part[order] for part in batch] if self.hook else batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, row = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        if losses.requires_grad:
            self.told.append((row.tolist(), losses.tolist()))
        return (losses * weight(row)).mean() if self.by_hand else losses.mean()


class Numbered(Rows):
    def __getitem__(self, position: int) -> Any:
        return (*super().__getitem__(position), position)


def weight(ids: Tensor) -> Tensor:
    return 0.5 + ids.float() / 16


def longest_first(rows: list[Any]) -> Any:
    return default_collate(sorted(rows, key=lambda row: -float(row[0][1])))


@pytest.mark.parametrize("hook", [False, True])
def test_rows_that_are_put_in_another_order_are_known_by_their_entry(hook: bool) -> None:
    collate = default_collate if hook else longest_first
    torch.manual_seed(1)
    module, sampler = Sorted(hook), Graded(16, id_key=2)
    plain = Sorted(hook)
    plain.load_state_dict(module.state_dict())
    plain.by_hand = True
    trainer().fit(module, DataLoader(Numbered(rows=16), 8, sampler=sampler, collate_fn=collate))
    assert [ids for ids, _ in sampler.heard] == [ids for ids, _ in module.told[-4:]] != sampler.drawn
    assert [losses for _, losses in sampler.heard] == [pytest.approx(losses) for _, losses in module.told[-4:]]
    data = DataLoader(Numbered(rows=16), batch_sampler=sampler.drawn, collate_fn=collate)
    trainer(max_epochs=1).fit(plain, data)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(module.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_weights_are_in_order_where_the_batch_names_groups() -> None:
    class Grouped(Numbered):
        def __getitem__(self, position: int) -> Any:
            return (*super().__getitem__(position)[:2], position % 3)

    sampler, journal = Graded(16, id_key=2), Journal()
    trainer(journal).fit(Sorted(hook=False), DataLoader(Grouped(rows=16), 8, sampler=sampler))
    assert [list(weights) for weights in journal.weights] == [
        weight(torch.tensor(ids)).tolist() for ids in sampler.drawn
    ]
