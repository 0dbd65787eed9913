"""Loaders that the Trainer makes anew, and datasets that do not say how long they are."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from lightning_select import SelectionReport
from lightning_select.callbacks.loaders import find_sampler
from lightning_select.errors import ConfigurationError
from tests.fitting import Rows, fit, trainer
from tests.modules import Classifier, features
from tests.samplers.toy import Weighted

ROWS = 16


class Stateful(DataLoader):
    """Says where it is, as that of torchdata does."""

    def state_dict(self) -> dict[str, Any]:
        return {"place": 3}

    def load_state_dict(self, state: Any) -> None:
        raise AssertionError


class Wrapping:
    """A batch sampler that hides its sampler from Lightning."""

    def __init__(self) -> None:
        self.inner = BatchSampler(Weighted(ROWS), 4, drop_last=False)

    def __iter__(self) -> Any:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


MAKES: dict[str, Any] = {
    "sampler": lambda rows: DataLoader(rows, 4, sampler=Weighted(ROWS)),
    "batch sampler": lambda rows: DataLoader(rows, batch_sampler=Wrapping()),
    "stateful": lambda rows: Stateful(rows, 4, sampler=Weighted(ROWS)),
    "plain": lambda rows: DataLoader(rows, 4, shuffle=True),
}


@pytest.mark.parametrize("kind", MAKES)
def test_a_loader_that_is_made_anew_is_let_go_with_its_dataset(kind: str, tmp_path: Path) -> None:
    made: list[Any] = []
    there: list[tuple[int, int]] = []

    class Reloads(Classifier):
        def train_dataloader(self) -> Any:
            rows = Rows(rows=ROWS)
            loader = MAKES[kind](rows)
            made.append((weakref.ref(loader), weakref.ref(rows)))
            return loader

        def on_train_epoch_end(self) -> None:
            gc.collect()
            there.append(tuple(sum(one() is not None for one in ones) for ones in zip(*made, strict=True)))

    done = trainer(SelectionReport(tmp_path), max_epochs=4, reload_dataloaders_every_n_epochs=1)
    done.fit(Reloads())
    assert len(made) == 4
    assert there == [(1, 1)] * 4


@pytest.mark.parametrize("kind", MAKES)
def test_the_last_loader_is_as_it_was(kind: str, tmp_path: Path) -> None:
    data = MAKES[kind](Rows(rows=ROWS))
    before = {name: vars(data).get(name) for name in ("sampler", "batch_sampler", "state_dict", "load_state_dict")}
    fit(Classifier, SelectionReport(tmp_path), data=data)
    assert {name: vars(data).get(name) for name in before} == before


class Columns(Dataset):
    """Reads a whole batch at once."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, rows: Any) -> Any:
        return [part[rows] for part in features(rows=ROWS)] + [torch.as_tensor(rows)]

    __getitems__ = __getitem__


def shuffling() -> DataLoader:
    data = DataLoader(Columns(), 4, sampler=drawn(), collate_fn=list)
    vars(data)["in_order"] = False  # older releases of torch do not take it
    return data


class Bare:
    """Hands out batches as it likes."""

    def __init__(self) -> None:
        self.dataset, self.sampler = Columns(), Weighted(ROWS, id_key=2)

    def __iter__(self) -> Any:
        return (self.dataset[list(rows)] for rows in BatchSampler(self.sampler, 4, drop_last=False))


class Numbered(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen = [*getattr(self, "seen", []), batch[2].tolist()]
        return super().training_step(batch[:2], batch_idx)


def drawn() -> Weighted:
    return Weighted(ROWS, id_key=2)


UNFOLLOWED: dict[str, Any] = {
    r"makes no batches itself \(batch_size=None\). Write DataLoader\(": (
        lambda: DataLoader(Columns(), None, sampler=BatchSampler(drawn(), 4, drop_last=False)),
        lambda: DataLoader(Columns(), 4, sampler=drawn(), collate_fn=list),
    ),
    r"than it draws them \(in_order=False\). Leave that out": (
        shuffling,
        lambda: DataLoader(Columns(), 4, sampler=drawn(), collate_fn=list, num_workers=1),
    ),
    "got a Bare. Use a torch DataLoader": (
        Bare,
        lambda: DataLoader(Columns(), batch_sampler=BatchSampler(drawn(), 4, drop_last=False), collate_fn=list),
    ),
}


@pytest.mark.parametrize("told", UNFOLLOWED)
def test_a_loader_whose_draws_cannot_be_followed_is_refused_and_told_what_to_do(told: str) -> None:
    bad, good = UNFOLLOWED[told]
    with pytest.raises(ConfigurationError, match=f"Weighted must know which of its draws a batch holds, .*{told}"):
        fit(Numbered, data=bad())
    data, module = good(), Numbered()
    fit(module, data=data, max_epochs=1)
    sampler = find_sampler(data)
    assert isinstance(sampler, Weighted)
    assert [ids for ids, _ in sampler.heard] == module.seen[-4:]


def test_a_loader_that_is_fitted_again_and_again_gathers_nothing(tmp_path: Path) -> None:
    data = MAKES["batch sampler"](Rows(rows=ROWS))
    counts = []
    for fits in range(3):
        fit(Classifier, SelectionReport(tmp_path / str(fits)), data=data, max_epochs=1)
        watches = (one.peek() for one in list(weakref.finalize._registry))
        counts.append(sum(watch is not None and watch[0] is data for watch in watches))
    assert counts == [0, 0, 0]


def test_a_dataset_without_a_length_is_reported_on_where_it_is_told(tmp_path: Path) -> None:
    class Endless(Dataset):
        def __getitem__(self, position: int) -> Any:
            return rows[position]

    rows, report = Rows(rows=ROWS), SelectionReport(tmp_path, rows=ROWS)
    fit(Classifier, report, data=DataLoader(Endless(), 4, sampler=range(ROWS)), max_epochs=1)
    assert report.noting is not None
    assert (report.noting.record.table().offered == 1).all()
