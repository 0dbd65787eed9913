"""Which logits are meant, where a step has several losses or a head is named, against those the module computes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select.scores.el2n import EL2N
from tests.modules import CLASSES, features
from tests.signals.test_last_layer import Net, measure


def el2n(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.detach().softmax(1) - F.one_hot(targets, CLASSES)).norm(dim=1)


def scored(module: Any, batch: tuple[Tensor, Tensor], head: str | None = None) -> Tensor:
    return EL2N()(measure(module, batch, EL2N(), head=head))


def weighed_by_a_teacher(module: Net, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        weights = torch.exp(-F.cross_entropy(module.other(x), y, reduction="none"))
    F.cross_entropy(module.other(x), y, reduction="none")  # a metric that nothing trains on
    return (weights * F.cross_entropy(module(x), y, reduction="none")).mean()


def test_unreduced_losses_that_train_nothing_are_no_second_head() -> None:
    (x, y), module = features(), Net(weighed_by_a_teacher)
    torch.testing.assert_close(scored(module, (x, y)), el2n(module(x), y))
