"""Optimizers and schedulers that the step itself changes: once per batch, however often the step is run."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.traceless.optimizers import options_kept
from tests.fitting import First, fit
from tests.modules import Classifier

CALLBACKS = pytest.mark.parametrize(
    "callback",
    [
        lambda: BatchSelection(Loss(), TopK(), keep=0.5),
        lambda: BatchSelection(Loss(), First(lambda count: torch.ones(count)), keep=4),
        lambda: LossReweighting(torch.ones_like),
    ],
    ids=["selection", "weights", "reweighting"],
)


def trainer_of(optimizer: Any, *schedulers: Any) -> Any:
    configs = [types.SimpleNamespace(scheduler=scheduler) for scheduler in schedulers]
    return types.SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=configs)


def sgd(**kwargs: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(2, 2).parameters(), **({"lr": 1.0} | kwargs))


class Decaying(Classifier):
    def training_step(self, batch, batch_idx):
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.97
        return super().training_step(batch, batch_idx)


class Scheduled(Classifier):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5), "interval": "epoch"}
        return [optimizer], [schedule | {"frequency": 100}]

    def training_step(self, batch, batch_idx):
        self.lr_schedulers().step()
        return super().training_step(batch, batch_idx)


@CALLBACKS
def test_a_rate_that_the_step_changes(callback: Any) -> None:
    done = fit(Decaying, callback())
    assert done.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02 * 0.97**12)


@CALLBACKS
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_scheduler_that_the_step_steps(callback: Any) -> None:
    done = fit(Scheduled, callback())
    scheduler = done.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == 12
    assert scheduler.get_last_lr() == [0.02 * 0.5**6]


def test_without_a_trainer() -> None:
    with options_kept(None):
        pass


def test_every_option_but_the_parameters() -> None:
    optimizer = sgd()
    group = optimizer.param_groups[0]
    before, parameters = dict(group), list(group["params"])
    with options_kept(trainer_of(optimizer)):
        group["momentum"], group["new"] = 0.5, 1
        del group["nesterov"]
    assert group == before
    assert optimizer.param_groups[0] is group
    assert all(one is other for one, other in zip(group["params"], parameters, strict=True))


def test_a_group_that_the_step_adds() -> None:
    optimizer = sgd()
    groups = optimizer.param_groups
    with options_kept(trainer_of(optimizer)):
        optimizer.add_param_group({"params": nn.Linear(1, 1).parameters()})
    assert optimizer.param_groups is groups
    assert len(groups) == 1


def test_a_rate_that_is_a_tensor() -> None:
    rate = torch.tensor(0.5)
    optimizer = sgd(lr=rate)
    group = optimizer.param_groups[0]
    with options_kept(trainer_of(optimizer)):
        group["lr"].mul_(0.5)
        group["lr"] = group["lr"] * 2
    assert group["lr"] is rate
    assert rate == 0.5


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_schedulers_inside_schedulers() -> None:
    optimizer = sgd()
    kinds = torch.optim.lr_scheduler
    parts = [kinds.ExponentialLR(optimizer, 0.5), kinds.ExponentialLR(optimizer, 0.9)]
    scheduler = kinds.SequentialLR(optimizer, parts, milestones=[2])
    before = [dict(vars(one)) for one in (scheduler, *parts)]
    with options_kept(trainer_of(optimizer, scheduler)):
        for _ in range(3):
            scheduler.step()
    assert [dict(vars(one)) for one in (scheduler, *parts)] == before
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_after_an_error() -> None:
    optimizer = sgd()

    def fail() -> None:
        with options_kept(trainer_of(optimizer)):
            optimizer.param_groups[0]["lr"] = 0.1
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fail()
    assert optimizer.param_groups[0]["lr"] == 1.0
