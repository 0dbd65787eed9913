"""Checkpoints saved in the validation after the last batch of an epoch: a resumed run ends that epoch once more.

By then its workers hold the rows of the next epoch. What is right is what the run did that nobody interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader

from lightning_select import DeviceLoader
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.info_batch import InfoBatch
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.samplers.repeated_random import RepeatedRandom
from tests.callbacks.test_sampler_feedback import Journal
from tests.fitting import Rows, same, trainer, weights_of
from tests.samplers.toy import Weighted
from tests.test_every_sampler import NAMES, Rewarded, make

ROWS, SIZE = 40, 8


class Validated(Rewarded):
    """What is validated makes no difference."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class Planned(Validated):
    """Asks how long training will be, for which Lightning makes the loader before it knows where the run goes on."""

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1 if steps else 0.2)


class Saves(pl.Callback):
    """Saves a checkpoint whenever one of these hooks is called, named by the batches so far."""

    def __init__(self, folder: Path, *hooks: str) -> None:
        for hook in hooks:
            setattr(self, hook, functools.partial(self._save, folder, hook.rpartition("_")[2]))

    def _save(self, folder: Path, moment: str, trainer: pl.Trainer, *rest: Any) -> None:
        trainer.save_checkpoint(folder / f"{trainer.fit_loop.total_batch_idx + 1:03d}-{moment}.ckpt")


def fit(made: Callable[[int], OnlineSampler], *callbacks: Any, ckpt: Any = None, **settings: Any) -> tuple[Any, Any]:
    """The trainer and the rows and weights of every step."""
    own = {key: settings.pop(key) for key in ("num_workers", "persistent_workers", "drop_last") if key in settings}
    kind, anew = settings.pop("loader", "plain"), settings.pop("anew", False)
    planned = settings.pop("planned", False)

    def loader() -> Any:
        sampler, data = made(ROWS), Rows(rows=ROWS)
        if kind == "device":
            return DeviceLoader(data.batch, SIZE, sampler=sampler)
        if kind == "batches":
            return DataLoader(data, batch_sampler=BatchSampler(sampler, SIZE, drop_last=False), **own)
        return DataLoader(data, SIZE, sampler=sampler, **own)

    class Data(pl.LightningDataModule):
        """Makes its loader, and the sampler in it, whenever it is asked."""

        def __init__(self) -> None:
            super().__init__()
            self.made = loader()

        def train_dataloader(self) -> Any:
            return loader() if anew else self.made

        def val_dataloader(self) -> Any:
            return DataLoader(Rows(rows=8), 8)

    torch.manual_seed(1)
    module, journal = (Planned() if planned else Validated()), Journal()
    given = {"max_epochs": 3, "num_sanity_val_steps": 0, **settings}
    done = trainer(journal, *callbacks, **given)
    done.fit(module, datamodule=Data(), ckpt_path=ckpt)
    weights = [torch.as_tensor(one).tolist() if one is not None else None for one in journal.weights]
    return done, list(zip(journal.ids, weights, strict=True))


def check(made: Callable[[int], OnlineSampler], folder: Path, hooks: tuple[str, ...], **settings: Any) -> None:
    """From every checkpoint the rest is that of the whole run, bit for bit."""
    whole, steps = fit(made, Saves(folder, *hooks), **settings)
    saved = sorted(folder.glob("*.ckpt"))
    assert len(saved) >= 2
    for one in saved:
        again, rest = fit(made, ckpt=one, **settings)
        assert rest == steps[len(steps) - len(rest) :], one.name
        assert len(rest) == len(steps) - int(one.name[:3]), one.name
        assert same(weights_of(again), weights_of(whole)), one.name


QUICK: dict[str, tuple[Callable[[int], OnlineSampler], dict[str, Any]]] = {
    "workers": (Weighted, {"num_workers": 2}),
    "persistent": (
        LossProportional,
        {"num_workers": 1, "persistent_workers": True, "val_check_interval": 1, "limit_train_batches": 2},
    ),
    "batches": (InfoBatch, {"num_workers": 1, "limit_train_batches": 3, "loader": "batches"}),
    "anew": (Weighted, {"num_workers": 1, "reload_dataloaders_every_n_epochs": 1, "anew": True}),
    "shrinking": (
        lambda rows: InfoBatch(rows, mode="shrinking", full_last=0.0),
        {"num_workers": 1, "reload_dataloaders_every_n_epochs": 1, "anew": True},
    ),
    "planned": (Weighted, {"num_workers": 1, "reload_dataloaders_every_n_epochs": 1, "planned": True, "max_epochs": 3}),
    "planned anew": (
        lambda rows: InfoBatch(rows, mode="shrinking", full_last=0.0),
        {"num_workers": 1, "reload_dataloaders_every_n_epochs": 1, "anew": True, "planned": True, "max_epochs": 3},
    ),
    "device": (lambda rows: Weighted(rows, lag=5), {"loader": "device"}),
}


@pytest.mark.parametrize("setting", QUICK)
def test_every_checkpoint_of_validation_resumes_bit_for_bit(setting: str, tmp_path: Path) -> None:
    made, settings = QUICK[setting]
    check(made, tmp_path, ("on_validation_end",), **{"max_epochs": 2, **settings})


@pytest.mark.parametrize("setting", ["shrinking", "planned anew"])
def test_one_of_the_end_of_an_epoch_that_is_over_does_too(setting: str, tmp_path: Path) -> None:
    made, settings = QUICK[setting]
    check(made, tmp_path, ("on_train_epoch_end",), **{"max_epochs": 3, **settings})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_that_is_resumed_there_meets_every_row_once(workers: int, tmp_path: Path) -> None:
    def made(rows: int) -> OnlineSampler:
        return RepeatedRandom(rows, fraction=0.4)  # two batches an epoch; a pass is two epochs and a half

    _, before = fit(made, Saves(tmp_path, "on_validation_end"), num_workers=workers, max_epochs=1)
    _, after = fit(made, ckpt=tmp_path / "002-end.ckpt", num_workers=workers, max_epochs=3)
    assert sorted(row for ids, _ in (before + after)[:5] for row in ids) == list(range(ROWS))


def test_a_run_that_is_interrupted_again_before_that_epoch_has_ended(tmp_path: Path) -> None:
    """The rows of the next epoch are on their way in its checkpoint."""
    whole, steps = fit(Weighted, Saves(tmp_path, "on_validation_end"), num_workers=1, max_epochs=2)
    fit(Weighted, Saves(tmp_path, "on_train_start"), ckpt=tmp_path / "005-end.ckpt", num_workers=1, max_epochs=2)
    again, rest = fit(Weighted, ckpt=tmp_path / "005-start.ckpt", num_workers=1, max_epochs=2)
    assert rest == steps[5:]
    assert same(weights_of(again), weights_of(whole))


GRID: dict[str, dict[str, Any]] = {
    "epochs": {},
    "second": {"check_val_every_n_epoch": 2},
    "twice": {"val_check_interval": 0.5},
    "batches": {"check_val_every_n_epoch": None, "val_check_interval": 2},
    "limit": {"limit_train_batches": 3},
    "anew": {"reload_dataloaders_every_n_epochs": 1, "anew": True},
    "accumulated": {"accumulate_grad_batches": 2, "limit_train_batches": 4},
}


CASES = [(name, "epochs") for name in NAMES]
CASES += [(name, setting) for name in ("loss_proportional", "info_batch", "repeated_random") for setting in GRID]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "setting"), sorted(set(CASES)))
@pytest.mark.parametrize("workers", [1, 2])
def test_every_sampler_resumes_from_there(name: str, setting: str, workers: int, tmp_path: Path) -> None:
    own = {"num_workers": workers, "persistent_workers": workers == 1 and setting != "anew"}
    hooks = ("on_validation_start", "on_validation_end")
    check(lambda rows: make(name, rows), tmp_path, hooks, **own, **GRID[setting])
