"""A LightningModule of gluonts, whose loss is the negative log-likelihood of its own distribution objects."""

import lightning.pytorch as L
import numpy as np
import pytest
import torch

pytest.importorskip("gluonts")

import pandas as pd
from gluonts.dataset.common import ListDataset
from gluonts.torch import SimpleFeedForwardEstimator
from gluonts.torch.model.simple_feedforward import SimpleFeedForwardLightningModule

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.thirdparty.harness import (
    Case,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
    seed,
)

pytestmark = pytest.mark.slow


def build():
    return SimpleFeedForwardLightningModule({"prediction_length": 4, "context_length": 8})


def batches():
    return [
        {
            "past_target": torch.rand(6, 8),
            "past_observed_values": torch.ones(6, 8),
            "future_target": torch.rand(6, 4),
            "future_observed_values": torch.ones(6, 4),
        }
        for _ in range(4)
    ]


CASE = Case(build, batches)


@pytest.mark.parametrize("check", [check_unit_weights, check_selection, check_row_losses, check_weighted_gradient])
def test_untouched(check):
    check(CASE)


def trained(*callbacks):
    seed(0)
    series = [
        {"target": np.sin(np.arange(60) / 5 + phase), "start": pd.Period("2024-01-01", "D")} for phase in range(4)
    ]
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    estimator = SimpleFeedForwardEstimator(
        prediction_length=4,
        context_length=8,
        batch_size=16,
        num_batches_per_epoch=5,
        trainer_kwargs={**quiet, "max_epochs": 2, "callbacks": list(callbacks)},
    )
    return estimator.train_model(ListDataset(series, freq="D")).trained_net.state_dict()


def test_its_own_trainer_and_loader():
    plain, weighted = trained(), trained(LossReweighting(torch.ones_like))
    assert all(torch.equal(value, plain[name]) for name, value in weighted.items())


def test_selection_in_its_own_trainer():
    kept = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            kept.append(len(batch["past_target"]))

    plain, selected = trained(), trained(BatchSelection(Loss(), TopK(), keep=0.5), Watch())
    assert kept == [8] * 10
    assert any(not torch.equal(value, plain[name]) for name, value in selected.items())
    assert all(value.isfinite().all() for value in selected.values())
