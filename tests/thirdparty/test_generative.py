"""Losses that draw noise inside the model: diffusion, and a language model that masks tokens at random."""

import lightning.pytorch as L
import pytest
import torch

pytest.importorskip("denoising_diffusion_pytorch")
pytest.importorskip("x_transformers")

import denoising_diffusion_pytorch as diffusion
import x_transformers as transformers

from tests.thirdparty.harness import (
    Case,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
)

pytestmark = pytest.mark.slow


class Wrapped(L.LightningModule):
    def training_step(self, batch):
        return self.model(batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Diffusion(Wrapped):
    def __init__(self):
        super().__init__()
        net = diffusion.Unet(dim=8, dim_mults=(1, 2), flash_attn=False)
        self.model = diffusion.GaussianDiffusion(net, image_size=16, timesteps=20)


class Language(Wrapped):
    mask_prob = 0.0

    def __init__(self):
        super().__init__()
        layers = transformers.Decoder(dim=16, depth=1, heads=2, attn_dim_head=8)
        net = transformers.TransformerWrapper(num_tokens=30, max_seq_len=12, attn_layers=layers)
        self.model = transformers.AutoregressiveWrapper(net, mask_prob=self.mask_prob)


class MaskedLanguage(Language):
    mask_prob = 0.15


def images():
    return [torch.rand(6, 3, 16, 16) for _ in range(3)]


def tokens():
    return [torch.randint(0, 30, (6, 12)) for _ in range(3)]


CASES = [Case(Diffusion, images), Case(Language, tokens), Case(MaskedLanguage, tokens)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unit_weights_change_nothing(case):
    check_unit_weights(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_selection_is_training_on_the_chosen_rows(case):
    check_selection(case)


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_row_losses_average_to_the_loss(case):
    check_row_losses(case, independent=case.make is Language)


def test_weighted_gradient_is_that_of_the_weighted_loss():
    check_weighted_gradient(CASES[1])
