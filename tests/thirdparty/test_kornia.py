"""Augmentations of kornia inside the step, with its losses."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn

pytest.importorskip("kornia")

import kornia

from tests.thirdparty.harness import (
    Case,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
)

pytestmark = pytest.mark.slow


def segmenter(loss):
    class Segmenter(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Conv2d(3, 3, 3, padding=1)
            self.loss = loss()
            self.augment = kornia.augmentation.AugmentationSequential(
                kornia.augmentation.RandomHorizontalFlip(p=0.5),
                kornia.augmentation.ColorJitter(0.1, 0.1, 0.1, 0.1, p=1.0),
                data_keys=["input", "mask"],
            )

        def training_step(self, batch, batch_idx):
            image, mask = batch
            if self.training:
                image, mask = self.augment(image, mask)
            return self.loss(self.net(image), mask.squeeze(1).long())

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    return Segmenter


def batches():
    return [(torch.rand(4, 3, 8, 8), torch.randint(0, 3, (4, 1, 8, 8)).float()) for _ in range(3)]


CASES = {
    "focal": Case(segmenter(lambda: kornia.losses.FocalLoss(0.5, 2.0, reduction="mean")), batches),
    "tversky": Case(segmenter(lambda: kornia.losses.TverskyLoss(0.5, 0.5)), batches),
    "dice": Case(segmenter(kornia.losses.DiceLoss), batches),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_unit_weights_change_nothing(case):
    check_unit_weights(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_selection_is_training_on_the_chosen_images(case):
    check_selection(case)


def test_row_losses_are_those_of_images_alone():
    check_row_losses(CASES["focal"])


@pytest.mark.parametrize("name", ["focal", "tversky"])
def test_weighted_gradient_is_that_of_the_weighted_loss(name):
    check_weighted_gradient(CASES[name])
