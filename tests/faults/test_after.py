"""Who still gets a word in after a fault."""

from __future__ import annotations

import pickle
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.fitting import fit, same, weights_of
from tests.modules import Classifier


def test_what_one_callback_had_yet_to_say_is_not_said_in_the_next_fit() -> None:
    """Both see that no loss is finite; the first one to say so ends the fit, and the other one must forget it."""

    class Lost(Classifier):
        fine = False

        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (1.0 if self.fine else float("nan"))

    def callbacks() -> list[Any]:
        return [BatchSelection(Loss(), TopK(), keep=0.5), LossReweighting(lambda losses: losses.exp())]

    used = callbacks()
    with pytest.raises(Exception, match="finite"):
        fit(Lost, *used)
    Lost.fine = True
    assert same(weights_of(fit(Lost, *used)), weights_of(fit(Lost, *callbacks())))


@pytest.mark.parametrize("cut", [1, 5])
def test_metrics_of_a_step_that_failed_are_not_logged_by_the_next_fit(cut: int) -> None:
    class Dying(Classifier):
        def on_before_zero_grad(self, optimizer):
            if self.trainer.global_step == cut and not self.fine:
                raise ZeroDivisionError("mine")

        fine = False

    callback = LossReweighting(torch.ones_like)
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(Dying, callback)
    Dying.fine = True
    assert fit(Dying, callback).callback_metrics["loss_reweighting/active"] == 1


class DyingInTheStep(Classifier):
    def on_before_zero_grad(self, optimizer):
        if self.trainer.global_step == 3:
            raise ZeroDivisionError("mine")


@pytest.mark.parametrize("callback", [BatchSelection(Loss(), TopK(), keep=0.5), LossReweighting(torch.ones_like)])
def test_what_a_step_that_failed_leaves_can_be_pickled(callback: Any) -> None:
    """The next fit may start processes, and those of ``ddp_spawn`` are sent all callbacks."""
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(DyingInTheStep, callback)
    assert pickle.loads(pickle.dumps(callback)).name == callback.name


def test_a_fit_whose_end_was_told_to_nobody_leaves_later_ones_alone() -> None:
    """Another callback fails while it is told of an error; Lightning then tells nobody behind it, and ends nothing."""

    class Failing(pl.Callback):
        def on_exception(self, *told: Any) -> None:
            raise OSError("disk full")

    class Dying(Classifier):
        fine = False

        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 3 and not self.fine:
                raise ZeroDivisionError("mine")
            return super().training_step(batch, batch_idx)

    torch.manual_seed(1)
    module, fresh = Dying(), Dying()
    start = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(OSError, match="disk full"):
        fit(module, Failing(), LossReweighting(lambda losses: losses.exp()))
    Dying.fine = True
    for callbacks in ([], [LossReweighting(lambda losses: 1 / losses)]):
        module.load_state_dict(start)
        fresh.load_state_dict(start)
        assert same(weights_of(fit(module, *callbacks)), weights_of(fit(fresh, *callbacks)))
