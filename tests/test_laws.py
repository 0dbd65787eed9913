"""The laws that every callback keeps, on modules of every kind (law numbers as in CONTRIBUTING)."""

from __future__ import annotations

import itertools
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_select import BatchSelection, LossReweighting
from lightning_select.batch import take_rows
from lightning_select.schedule import Schedule
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.fitting import First, fit, loader, same, weights_of
from tests.modules import (
    CLASSES,
    FEATURES,
    SCENARIOS,
    Added,
    Base,
    Classifier,
    FusedWithStep,
    Manual,
    NoneThenMean,
    Scenario,
    Uncertain,
)

EVERY = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


class Busy(Base):
    """Everything that a step can touch besides its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.head = nn.Linear(16, CLASSES)
        self.teacher = nn.Linear(FEATURES, CLASSES).requires_grad_(False)
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=CLASSES)
        self.metrics = torchmetrics.MetricCollection(
            [
                torchmetrics.Precision("multiclass", num_classes=CLASSES),
                torchmetrics.Recall("multiclass", num_classes=CLASSES),
            ]
        )
        self.register_buffer("queue", torch.zeros(4, FEATURES))
        self.outputs: list[torch.Tensor] = []
        self.counter = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        x.mul_(1.01)
        with torch.no_grad():
            self.teacher.weight.data.mul_(0.9).add_(self.head.weight[:, :FEATURES], alpha=0.1)
            self.queue[self.counter % 4] = x[0]
            self.teacher.bias.data = self.teacher.bias.data * 0.5 + 0.1
        self.counter += 1
        z = self.head(self(x + 0.1 * torch.randn_like(x)))
        loss = F.cross_entropy(z, y) + 0.1 * F.mse_loss(z, self.teacher(x)) + 0.01 * self.queue.mean() * z.mean()
        self.accuracy(z, y)
        self.metrics.update(z, y)
        self.outputs.append(loss.detach())
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("accuracy", self.accuracy, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.log_dict(self.metrics.compute())
        self.metrics.reset()
        self.register_mean = torch.stack(self.outputs).mean()
        self.log("mean", self.register_mean)
        self.outputs.clear()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, 24), "interval": "step"}
        ]


class CutByHand(pl.Callback):
    """What BatchSelection with `First` does, without us: every batch is cut to its first rows."""

    def __init__(self, count: int) -> None:
        self.count = count

    def setup(self, trainer, pl_module, stage) -> None:
        pl_module.on_after_batch_transfer = lambda batch, _: take_rows(batch, torch.arange(self.count))


ALL = {"Busy": Scenario(Busy)} | {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("extra", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}], ids=str)
def test_law_1_unit_weights_train_bit_for_bit_like_no_callback(name: str, extra: dict[str, Any]) -> None:
    scenario = ALL[name]
    plain = fit(scenario.module, data=loader(scenario.batch), **extra)
    ours = fit(scenario.module, LossReweighting(torch.ones_like), data=loader(scenario.batch), **extra)
    assert same(weights_of(plain), weights_of(ours))
    assert {
        k: v for k, v in ours.callback_metrics.items() if not k.startswith("loss_reweighting")
    } == plain.callback_metrics


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("train_mode", [False, True])
def test_law_1_scoring_leaves_no_trace(name: str, train_mode: bool) -> None:
    scenario = ALL[name]
    by_hand = fit(scenario.module, CutByHand(4), data=loader(scenario.batch))
    ours = fit(
        scenario.module, BatchSelection(Loss(), First(), keep=0.5, train_mode=train_mode), data=loader(scenario.batch)
    )
    assert same(weights_of(by_hand), weights_of(ours))
    assert {k: v for k, v in ours.callback_metrics.items() if not k.startswith("batch_sel")} == by_hand.callback_metrics


@EVERY
def test_law_1_keeping_all_trains_like_no_callback(scenario: Scenario) -> None:
    plain = fit(scenario.module, data=loader(scenario.batch))
    ours = fit(scenario.module, BatchSelection(Loss(), TopK(), keep=1.0), data=loader(scenario.batch))
    assert same(weights_of(plain), weights_of(ours))


def test_law_1_an_inactive_schedule_trains_like_no_callback() -> None:
    never = Schedule(start=10_000)
    plain = weights_of(fit(Busy))
    assert same(plain, weights_of(fit(Busy, LossReweighting(lambda losses: losses, schedule=never))))
    assert same(plain, weights_of(fit(Busy, BatchSelection(Loss(), TopK(), keep=0.5, schedule=never))))


def test_law_1_unit_weights_of_a_selector_change_nothing() -> None:
    without = weights_of(fit(Busy, BatchSelection(Loss(), First(), keep=4)))
    with_ones = weights_of(fit(Busy, BatchSelection(Loss(), First(torch.ones), keep=4)))
    assert same(without, with_ones)


class Compiled(Busy):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="aot_eager")


@pytest.mark.parametrize("callback", ["reweighting", "selection"])
def test_law_1_with_a_compiled_network(callback: str) -> None:
    if callback == "reweighting":
        plain, ours = fit(Compiled), fit(Compiled, LossReweighting(torch.ones_like))
    else:
        plain, ours = fit(Compiled, CutByHand(4)), fit(Compiled, BatchSelection(Loss(), First(), keep=0.5))
    assert same(weights_of(plain), weights_of(ours))


def compiled(module: type[Base]) -> Any:
    """Lightning cannot trace ``self.log`` with this torch, so the modules here do not log."""
    torch.manual_seed(1)
    return torch.compile(module(), backend="aot_eager")


@pytest.mark.parametrize("module", [NoneThenMean, Added, Uncertain])
def test_law_1_with_the_whole_module_compiled(module: type[Base]) -> None:
    plain = weights_of(fit(compiled(module), CutByHand(4)))
    assert same(plain, weights_of(fit(compiled(module), BatchSelection(Loss(), First(), keep=0.5))))


@pytest.mark.parametrize("module", [NoneThenMean, Added, Uncertain])
def test_a_module_compiled_as_a_whole_is_reweighted_like_any_other(module: type[Base]) -> None:
    """Watching the reductions breaks the graph there, so this is equal up to rounding."""
    ours = weights_of(fit(compiled(module), LossReweighting(lambda losses: losses)))
    for key, value in weights_of(fit(module, LossReweighting(lambda losses: losses))).items():
        torch.testing.assert_close(ours[key], value)


def test_law_3_callbacks_stack_in_any_order() -> None:
    def callbacks() -> list[pl.Callback]:
        return [
            BatchSelection(Loss(), TopK(), keep=6, name="first"),
            LossReweighting(lambda losses: losses),
            LossReweighting(lambda losses: losses.exp(), name="second"),
        ]

    results = [weights_of(fit(Busy, *order)) for order in itertools.permutations(callbacks())]
    for result in results[1:]:
        for key, value in results[0].items():
            torch.testing.assert_close(result[key], value)


def test_law_3_two_selections_act_one_after_the_other() -> None:
    seen: list[int] = []

    class Counting(Classifier):
        def training_step(self, batch, batch_idx):
            if torch.is_grad_enabled():
                seen.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    fit(Counting, BatchSelection(Loss(), TopK(), keep=6, name="a"), BatchSelection(Loss(), First(), keep=2, name="b"))
    assert set(seen[1:]) == {2}


@pytest.mark.parametrize("module", [Busy, Classifier, FusedWithStep])
def test_law_3_nothing_stays_behind(module: type[Base]) -> None:
    torch.manual_seed(0)
    made = module()
    before = set(vars(made))
    trainer = fit(made, BatchSelection(Loss(), TopK(), keep=0.5), LossReweighting(lambda losses: losses))
    added = set(vars(made)) - before - {"_hparams", "_hparams_initial", "register_mean"}
    assert not added
    assert not {"batch_to_device", "process_dataloader"} & set(vars(trainer.strategy))


def test_law_3_nothing_stays_behind_after_an_error() -> None:
    class Dying(Classifier):
        def training_step(self, batch, batch_idx):
            if self.global_step == 3:
                raise ZeroDivisionError("mine")
            return super().training_step(batch, batch_idx)

    module = Dying()
    before = set(vars(module))
    callbacks = BatchSelection(Loss(), TopK(), keep=0.5), LossReweighting(lambda losses: losses)
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(module, *callbacks)
    assert not set(vars(module)) - before - {"_hparams", "_hparams_initial"}
    Dying.training_step = Classifier.training_step
    fit(module, *callbacks)


def test_law_5_an_inactive_method_says_so_once(caplog: pytest.LogCaptureFixture, tmp_path) -> None:
    caplog.set_level("INFO", logger="lightning.pytorch")
    callback = LossReweighting(lambda losses: losses, schedule=Schedule(start=8), name="mine")
    trainer = fit(Classifier, callback, logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1))
    said = [record.message for record in caplog.records if "inactive" in record.message]
    assert len(said) == 1
    assert "mine is inactive at step 0" in said[0]
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("mine/active")
    active = [line.split(",")[column] for line in lines[1:] if line.split(",")[column]]
    assert [float(value) for value in active] == [0.0] * 8 + [1.0] * 4
    assert trainer.global_step == 12


def test_manual_optimisation_works_through_selection_step() -> None:
    class Both(Manual):
        def selection_step(self, batch):
            from lightning_select.signals.base import Signals

            return Signals(loss=F.cross_entropy(self(batch[0]), batch[1], reduction="none"))

    by_hand = fit(Both, CutByHand(4))
    assert same(weights_of(by_hand), weights_of(fit(Both, BatchSelection(Loss(), First(), keep=4))))


def test_selection_keeps_the_rows_with_the_largest_losses() -> None:
    kept = []

    class Watching(Classifier):
        def training_step(self, batch, batch_idx):
            if torch.is_grad_enabled() and self.trainer.global_step:
                with torch.no_grad():
                    kept.append((self.everyone, F.cross_entropy(self(batch[0]), batch[1], reduction="none")))
            return super().training_step(batch, batch_idx)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            with torch.no_grad():
                self.everyone = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return batch

    fit(Watching, BatchSelection(Loss(), TopK(), keep=3))
    assert len(kept) == 11
    for everyone, chosen in kept:
        torch.testing.assert_close(chosen.sort(descending=True).values, everyone.sort(descending=True).values[:3])
