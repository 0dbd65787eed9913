"""Speech separation: learned filterbanks of asteroid and a permutation invariant loss of torchmetrics."""

import pytest
import torch
from torch import nn

pytest.importorskip("asteroid_filterbanks")
pytest.importorskip("pytorch_lightning")

import pytorch_lightning as pl
from asteroid_filterbanks import STFTFB, Decoder, Encoder, FreeFB
from torchmetrics.audio import PermutationInvariantTraining
from torchmetrics.functional.audio import (
    permutation_invariant_training,
    scale_invariant_signal_distortion_ratio,
)

from tests.thirdparty.harness import (
    Case,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
)

pytestmark = pytest.mark.slow


class Separator(pl.LightningModule):
    bank = FreeFB

    def __init__(self):
        super().__init__()
        filters = {"n_filters": 32, "kernel_size": 16, "stride": 8}
        self.encoder = Encoder(self.bank(**filters))
        self.masks = nn.Sequential(nn.Conv1d(self.encoder.n_feats_out, 64, 1), nn.ReLU(), nn.Conv1d(64, 64, 1))
        self.decoder = Decoder(FreeFB(**filters))

    def forward(self, mixture):
        features = self.encoder(mixture.unsqueeze(1))
        masks = self.masks(features).sigmoid().unflatten(1, (2, 32))
        return self.decoder(masks * features[:, None, :32], length=mixture.shape[-1])

    def training_step(self, batch, batch_idx):
        mixture, sources = batch
        best, _ = permutation_invariant_training(
            self(mixture), sources, scale_invariant_signal_distortion_ratio, mode="speaker-wise", eval_func="max"
        )
        loss = -best.mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class SpectrumSeparator(Separator):
    bank = STFTFB


class MetricAsLoss(Separator):
    def __init__(self):
        super().__init__()
        self.metric = PermutationInvariantTraining(scale_invariant_signal_distortion_ratio, eval_func="max")

    def training_step(self, batch, batch_idx):
        mixture, sources = batch
        return -self.metric(self(mixture), sources)


def batches():
    sources = [torch.randn(6, 2, 400) for _ in range(4)]
    return [(source.sum(1), source) for source in sources]


CASES = [Case(kind, batches, "pytorch_lightning") for kind in (Separator, SpectrumSeparator, MetricAsLoss)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unit_weights_change_nothing(case):
    check_unit_weights(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_selection_is_training_on_the_chosen_mixtures(case):
    check_selection(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row_losses_are_those_of_mixtures_alone(case):
    check_row_losses(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weighted_gradient_is_that_of_the_weighted_loss(case):
    check_weighted_gradient(case)
