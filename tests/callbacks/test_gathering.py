from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from lightning_select import DeviceLoader, LossReweighting, SelectionReport, distributed
from lightning_select.callbacks.gathering import Gathering
from lightning_select.errors import ConfigurationError
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.weightings.focal import Focal
from tests.fitting import loader, trainer
from tests.modules import Classifier, features


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """This rank, and one that always has as many rows; the sizes that were asked for."""
    asked: list[int] = []

    def largest(value: int, device: torch.device) -> int:
        asked.append(value)
        return value

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "largest", largest)
    monkeypatch.setattr(distributed, "gather_rows", lambda values, capacity: torch.zeros(2, capacity))
    return asked


def test_the_first_batch_settles_the_size(two_ranks: list[int]) -> None:
    gathering = Gathering("Me")
    for rows in (4, 4, 1):
        assert gathering.values(torch.zeros(rows)).shape == (8,)
    assert two_ranks == [4]
    with pytest.raises(ConfigurationError, match="Me must see its largest batch first .* got 5 rows .* of 4"):
        gathering.values(torch.zeros(5))


def test_a_loader_that_tells_the_size_settles_it(two_ranks: list[int]) -> None:
    gathering = Gathering("Me", rows=4)
    for rows in (2, 4, 1):
        assert gathering.values(torch.zeros(rows)).shape == (8,)
    assert two_ranks == [4]


def test_ranks_pad_their_attempts_to_the_most_of_any(two_ranks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "gather_rows", lambda values, capacity: values[None].expand(2, -1, -1))
    gathering = Gathering("Me")
    assert gathering.attempts(torch.zeros(4, 3)).shape == (8, 3)
    fewer = gathering.attempts(torch.zeros(4))
    assert fewer.isnan().tolist() == [[False, True, True]] * 8
    assert two_ranks == [3, 4]
    with pytest.raises(ConfigurationError, match="Me must see its largest number of attempts first .* got 4 .* of 3"):
        gathering.attempts(torch.zeros(4, 4))


def test_a_run_that_goes_on_amid_an_epoch_may_begin_with_its_short_end(two_ranks: list[int]) -> None:
    gathering = Gathering("Me", amid=True)
    assert gathering.values(torch.zeros(1)).shape == (2,)
    gathering.next_epoch()
    for rows in (4, 4, 1):
        gathering.values(torch.zeros(rows))
    gathering.next_epoch()
    gathering.values(torch.zeros(4))
    assert two_ranks == [1, 4]


@pytest.mark.parametrize(("step", "amid"), [(0, False), (2, True), (5, True), (6, False), (7, True)])
def test_only_a_run_that_goes_on_amid_an_epoch_has_its_ranks_agree_at_every_step(
    step: int, amid: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, bool] = {}

    class Told(Gathering):
        def __init__(self, owner: str, *, rows: int = 0, steady: bool = True, amid: bool = False) -> None:
            super().__init__(owner, rows=rows, steady=steady, amid=amid)
            told[owner] = amid

    for name in ("loss_reweighting", "sampler_feedback", "noting"):
        monkeypatch.setattr(f"lightning_select.callbacks.{name}.Gathering", Told)

    def run(*callbacks: Any, **kwargs: Any) -> None:
        done = trainer(
            LossReweighting(Focal()),
            SelectionReport(tmp_path / "report"),
            *callbacks,
            max_epochs=3,
            enable_checkpointing=bool(callbacks),
        )
        done.fit(Classifier(), loader(shuffle=False, sampler=LossProportional(48)), **kwargs)

    run(ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1))
    told.clear()
    run(ckpt_path=tmp_path / f"step={step}.ckpt" if step else None)
    owners = ("LossReweighting", "LossProportional", "SelectionReport")
    assert {owner: told[owner] for owner in owners} == dict.fromkeys(owners, amid)


class Growing(BatchSampler):
    """Batches of any size."""


ROWS = TensorDataset(*features(rows=48))
LOADERS: dict[str, tuple[Callable[[], Any], bool]] = {
    "DataLoader": (loader, True),
    "DeviceLoader": (lambda: DeviceLoader(ROWS, 8), True),
    "batch sampler": (lambda: DataLoader(ROWS, batch_sampler=Growing(SequentialSampler(ROWS), 8, False)), False),
}


@pytest.mark.parametrize(("make", "steady"), LOADERS.values(), ids=LOADERS)
def test_a_report_has_its_ranks_agree_once_where_batches_are_of_one_size(
    make: Callable[[], Any], steady: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    class Told(Gathering):
        def __init__(self, owner: str, *, rows: int = 0, steady: bool = True, amid: bool = False) -> None:
            super().__init__(owner, rows=rows, steady=steady, amid=amid)
            told.append(steady)

    monkeypatch.setattr("lightning_select.callbacks.noting.Gathering", Told)
    trainer(SelectionReport(tmp_path / "report"), max_epochs=1).fit(Classifier(), make())
    assert told == [steady]
