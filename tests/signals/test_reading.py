"""Hidden states and logits that could be mistaken for those of another layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lightning_select.signals.scoring import StepRunner
from tests.modules import CLASSES, FEATURES, Base, features


def measure(module: Base, *names: str):
    return StepRunner(module, None, module.training_step).measure(features(), {"loss", *names})


class Auxiliary(Base):
    """A second head is called after the classifier."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(FEATURES, 5), nn.Linear(5, CLASSES), nn.Linear(FEATURES, outputs)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.head(self.body(x))
        return F.cross_entropy(logits, y) + 0.1 * self.other(x).square().mean()


def test_a_later_head_is_not_taken_for_the_classifier() -> None:
    for outputs in (2, CLASSES):
        module = Auxiliary(outputs)
        torch.testing.assert_close(measure(module, "hidden").hidden, module.body(features()[0]).detach())


def test_scaled_logits_still_come_from_their_layer() -> None:
    class Scaled(Auxiliary):
        def training_step(self, batch, batch_idx):
            x, y = batch
            self.other(x)
            return F.cross_entropy(self.head(self.body(x)).float() / 2, y)

    module = Scaled(2)
    torch.testing.assert_close(measure(module, "hidden").hidden, module.body(features()[0]).detach())


def test_no_linear_layer_no_hidden_state() -> None:
    class Plain(Base):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(FEATURES, CLASSES))

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(batch[0] @ self.weight, batch[1])

    assert measure(Plain(), "hidden", "logits").hidden is None


def test_two_views_of_a_binary_row_have_no_single_hidden_state() -> None:
    class Views(Base):
        def training_step(self, batch, batch_idx):
            x, y = batch
            z = self(torch.cat([x, x + 1]))[:, 0]
            return F.binary_cross_entropy_with_logits(z, (y > 1).float().repeat(2))

    found = measure(Views(), "hidden", "logits")
    assert found.logits.shape == (8, 2)
    assert found.hidden is None


def test_targets_that_the_step_changes_in_place_are_those_that_the_loss_saw() -> None:
    class Relabelling(Base):
        def training_step(self, batch, batch_idx):
            x, y = batch
            y[y == 0] = -100
            return F.cross_entropy(self(x), y)

    x, y = features()
    found = StepRunner(module := Relabelling(), None, module.training_step).measure((x, y), {"logits"})
    assert torch.equal(found.targets, torch.where(y == 0, -100, y))
    assert (y == 0).any()
