"""Self-supervised losses and heads of lightly in plain modules, written as in its documentation."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("lightly")
pytest.importorskip("pytorch_lightning")

import pytorch_lightning as pl
from lightly.loss import (
    BarlowTwinsLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    VICRegLoss,
)
from lightly.models.modules import (
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule

from lightning_select import LossReweighting
from lightning_select.errors import TrainingStepContractError
from tests.thirdparty.harness import (
    Case,
    batches_of,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
    fit,
)

pytestmark = pytest.mark.slow


def backbone():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))


class _Module(pl.LightningModule):
    def forward(self, x):
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.06)


class SimCLR(_Module):
    def __init__(self):
        super().__init__()
        self.backbone = backbone()
        self.projection_head = SimCLRProjectionHead(8, 16, 16)
        self.criterion = NTXentLoss()
        self.criterion.memory_bank.bank_ptr.zero_()  # lightly leaves this buffer of an empty bank uninitialised

    def training_step(self, batch, batch_index):
        (x0, x1), _, _ = batch
        loss = self.criterion(self.forward(x0), self.forward(x1))
        self.log("train_loss", loss)
        return loss


class VICReg(SimCLR):
    def __init__(self):
        super().__init__()
        self.criterion = VICRegLoss()


class BarlowTwins(SimCLR):
    def __init__(self):
        super().__init__()
        self.projection_head = BarlowTwinsProjectionHead(8, 16, 16)
        self.criterion = BarlowTwinsLoss()


class _Momentum(_Module):
    def twins(self):
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward_momentum(self, x):
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()

    def follow(self):
        momentum = cosine_schedule(self.current_epoch, 10, 0.996, 1)
        update_momentum(self.backbone, self.backbone_momentum, m=momentum)
        update_momentum(self.projection_head, self.projection_head_momentum, m=momentum)


class MoCo(_Momentum):
    def __init__(self):
        super().__init__()
        self.backbone = backbone()
        self.projection_head = MoCoProjectionHead(8, 16, 16)
        self.twins()
        self.criterion = NTXentLoss(memory_bank_size=(32, 16))

    def training_step(self, batch, batch_idx):
        self.follow()
        x_query, x_key = batch[0]
        return self.criterion(self.forward(x_query), self.forward_momentum(x_key))


class BYOL(_Momentum):
    def __init__(self):
        super().__init__()
        self.backbone = backbone()
        self.projection_head = BYOLProjectionHead(8, 16, 16)
        self.prediction_head = BYOLPredictionHead(16, 16, 16)
        self.twins()
        self.criterion = NegativeCosineSimilarity()

    def training_step(self, batch, batch_idx):
        self.follow()
        x0, x1 = batch[0]
        p0, z0 = self.prediction_head(self.forward(x0)), self.forward_momentum(x0)
        p1, z1 = self.prediction_head(self.forward(x1)), self.forward_momentum(x1)
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


class SwaV(_Module):
    def __init__(self):
        super().__init__()
        self.backbone = backbone()
        self.projection_head = SwaVProjectionHead(8, 16, 16)
        self.prototypes = SwaVPrototypes(16, n_prototypes=12)
        self.criterion = SwaVLoss()

    def training_step(self, batch, batch_idx):
        self.prototypes.normalize()
        views = [self.prototypes(nn.functional.normalize(self.forward(view), dim=1)) for view in batch[0]]
        return self.criterion(views[:2], views[2:])


def views(count=2):
    def batches():
        names = [f"{row}.png" for row in range(8)]
        return [([torch.randn(8, 3, 12, 12) for _ in range(count)], torch.zeros(8), names) for _ in range(4)]

    return batches


CASES = [
    Case(kind, views(4 if kind is SwaV else 2), "pytorch_lightning") for kind in (SimCLR, MoCo, BYOL, SwaV, VICReg)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unit_weights_change_nothing(case):
    check_unit_weights(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_selection_is_training_on_the_chosen_rows(case):
    check_selection(case)


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_row_losses_average_to_the_loss(case):
    check_row_losses(case, independent=case.make is BYOL, mean=True)


def test_weighted_gradient_of_byol():
    check_weighted_gradient(CASES[2])


def test_weighted_gradient_of_simclr():
    def weighted(module, batch, weights):
        z = torch.cat([nn.functional.normalize(module(view), dim=1) for view in batch[0]])
        similar = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
        losses = nn.functional.cross_entropy(similar, torch.arange(len(z)).roll(len(z) // 2), reduction="none")
        return (losses * weights.repeat(2)).mean()

    check_weighted_gradient(CASES[0], weighted)


def test_statistics_of_a_whole_batch_are_refused():
    case = Case(BarlowTwins, views(), "pytorch_lightning")
    assert batches_of(case)
    with pytest.raises(TrainingStepContractError, match=r"BarlowTwins\.training_step must show one loss per row"):
        fit(case, LossReweighting(torch.ones_like))
