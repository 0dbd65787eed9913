"""A U-Net and the losses of segmentation_models_pytorch in the module of its own example."""

import lightning.pytorch as L
import pytest
import torch

pytest.importorskip("segmentation_models_pytorch")

import segmentation_models_pytorch as smp

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.thirdparty.harness import (
    Case,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
    fit,
)

pytestmark = pytest.mark.slow


def module(loss, classes):
    class Segmenter(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = smp.Unet("mobilenet_v2", 3, None, decoder_channels=(32, 16, 8), classes=classes)
            self.register_buffer("mean", torch.tensor([0.4, 0.4, 0.4]).view(1, 3, 1, 1))
            self.loss_fn = loss()
            self.training_step_outputs = []
            self.epoch_outputs = []

        def training_step(self, batch, batch_idx):
            mask = batch["mask"]
            logits = self.model(batch["image"] - self.mean)
            loss = self.loss_fn(logits, mask)
            if classes == 1:
                stats = smp.metrics.get_stats((logits.sigmoid() > 0.5).long(), mask.long(), mode="binary")
            else:
                stats = smp.metrics.get_stats(logits.argmax(1), mask, mode="multiclass", num_classes=classes)
            output = {"loss": loss, **dict(zip(("tp", "fp", "fn", "tn"), stats, strict=True))}
            self.training_step_outputs.append({name: value.detach() for name, value in output.items()})
            return output

        def on_train_epoch_end(self):
            self.epoch_outputs = list(self.training_step_outputs)
            self.log("train_tp", torch.cat([output["tp"] for output in self.epoch_outputs]).sum().float())
            self.training_step_outputs.clear()

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=2e-4)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return Segmenter


def batches(classes):
    def make():
        shape = (4, 1, 32, 32) if classes == 1 else (4, 32, 32)
        masks = [torch.randint(0, max(classes, 2), shape) for _ in range(2)]
        images = [torch.randn(4, 3, 32, 32) for _ in masks]
        return [
            {"image": image, "mask": mask.float() if classes == 1 else mask, "name": list("abcd")}
            for image, mask in zip(images, masks, strict=True)
        ]

    return make


def case(loss, classes):
    return Case(module(loss, classes), batches(classes), steps=2)


CASES = {
    "soft bce": case(smp.losses.SoftBCEWithLogitsLoss, 1),
    "focal": case(lambda: smp.losses.FocalLoss("binary"), 1),
    "focal of three": case(lambda: smp.losses.FocalLoss("multiclass"), 3),
    "soft cross entropy": case(lambda: smp.losses.SoftCrossEntropyLoss(smooth_factor=0.1), 3),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_unit_weights_change_nothing(case):
    check_unit_weights(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_selection_is_training_on_the_chosen_rows(case):
    check_selection(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_row_losses_are_those_of_images_alone(case):
    check_row_losses(case, rtol=1e-3)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_weighted_gradient_is_that_of_the_weighted_loss(case):
    check_weighted_gradient(case, rtol=1e-3)


@pytest.mark.parametrize(
    ("callback", "rows"), [(LossReweighting(torch.ones_like), 4), (BatchSelection(Loss(), TopK(), keep=2), 2)]
)
def test_outputs_collected_for_the_epoch_are_those_of_training(callback, rows):
    made = []

    def make():
        made.append(CASES["focal"].make())
        return made[-1]

    fit(Case(make, batches(1), steps=2), callback)
    assert [len(output["tp"]) for output in made[0].epoch_outputs] == [rows] * 2
