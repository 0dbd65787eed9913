"""Losses of pytorch-metric-learning that have one term per row."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn

pytest.importorskip("pytorch_metric_learning")

from pytorch_metric_learning import losses

from tests.thirdparty.harness import (
    Case,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
)

pytestmark = pytest.mark.slow


def embedder(loss):
    class Embedder(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 4)
            self.loss = loss()

        def training_step(self, batch, batch_idx):
            return self.loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Embedder


def batches():
    return [(torch.randn(16, 6), torch.arange(16) % 4) for _ in range(4)]


PROXIES = {
    "arcface": Case(embedder(lambda: losses.ArcFaceLoss(4, 4)), batches),
    "normalised softmax": Case(embedder(lambda: losses.NormalizedSoftmaxLoss(4, 4)), batches),
}
CASES = PROXIES | {
    "supcon": Case(embedder(losses.SupConLoss), batches),
    "circle": Case(embedder(losses.CircleLoss), batches),
    "multi similarity": Case(embedder(losses.MultiSimilarityLoss), batches),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_unit_weights_change_nothing(case):
    check_unit_weights(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_selection_is_training_on_the_chosen_rows(case):
    check_selection(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_row_losses_average_to_the_loss(case):
    check_row_losses(case, independent=False)


@pytest.mark.parametrize("case", PROXIES.values(), ids=PROXIES)
def test_rows_of_proxy_losses_are_independent(case):
    check_row_losses(case)
    check_weighted_gradient(case)
