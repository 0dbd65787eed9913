"""Reductions on the way to the terms of the loss: they are no losses themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.callbacks.test_first_batches import fixed
from tests.fitting import fit, loader, same, weights_of
from tests.modules import CLASSES, FEATURES, Base

WIDE = 30


class Inner(Base):
    """Logits that pass through ``change``, which may make reductions, and a loss that may be weighted by hand."""

    by_hand = False
    width = WIDE
    change: Callable[..., Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, self.width)
        self.head = nn.Linear(self.width, CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = type(self).change(self.head(self.body(x).relu()), self.head.weight)
        if not self.by_hand:
            return F.cross_entropy(logits, y)
        return (fixed(y) * F.cross_entropy(logits, y, reduction="none")).mean()


CHANGES = {
    "over the norm of a weight": lambda logits, weight: logits / weight.norm(),
    "times a mean": lambda logits, weight: logits * weight.mean().exp(),
    "less their mean": lambda logits, weight: logits - logits.mean(),
    "over their norm": lambda logits, weight: logits / logits.norm(),
    "over a spectral norm": lambda logits, weight: logits / torch.dot(weight.sum(dim=0), weight.mean(dim=0)),
}


@pytest.mark.parametrize("width", [4, WIDE])
@pytest.mark.parametrize("change", CHANGES)
def test_reductions_before_the_loss_count_for_no_row(change: str, width: int, caplog: pytest.LogCaptureFixture) -> None:
    kind = type("Theirs", (Inner,), {"change": staticmethod(CHANGES[change]), "width": width})
    by_hand = type("ByHand", (kind,), {"by_hand": True})
    with caplog.at_level("INFO"):
        ours = weights_of(fit(kind, LossReweighting(fixed)))
    assert "does not belong to rows" not in caplog.text
    for key, value in weights_of(fit(by_hand)).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
    assert not same(ours, weights_of(fit(kind)))


@pytest.mark.parametrize("make", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_spectral_norm(make: Callable[[nn.Module], nn.Module]) -> None:
    class Theirs(Inner):
        change = staticmethod(lambda logits, weight: logits)

        def __init__(self) -> None:
            super().__init__()
            self.head = make(self.head)

    ours = weights_of(fit(Theirs, LossReweighting(fixed)))
    for key, value in weights_of(fit(type("ByHand", (Theirs,), {"by_hand": True}))).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
    fit(Theirs, BatchSelection(Loss(), TopK(), keep=4))


def test_losses_of_single_rows_that_are_stacked(caplog: pytest.LogCaptureFixture) -> None:
    class OneByOne(Inner):
        def training_step(self, batch, batch_idx):
            x, y = batch
            out = self.body(x)
            rows = torch.stack([F.mse_loss(row, row.detach() * 0) for row in out])
            return ((fixed(y) if self.by_hand else 1.0) * rows).mean()

    with caplog.at_level("INFO"):
        ours = weights_of(fit(OneByOne, LossReweighting(fixed)))
    assert "does not belong to rows" not in caplog.text
    for key, value in weights_of(fit(type("ByHand", (OneByOne,), {"by_hand": True}))).items():
        torch.testing.assert_close(ours[key], value)


@pytest.mark.parametrize("loss", ["triplet", "cosine"])
def test_an_anchor_that_all_rows_share(loss: str) -> None:
    class Shared(Inner):
        def __init__(self) -> None:
            super().__init__()
            self.anchor = nn.Parameter(torch.linspace(-1.0, 1.0, WIDE)[None])

        def training_step(self, batch, batch_idx):
            x, y = batch
            out, reduction = self.body(x), "none" if self.by_hand else "mean"
            if loss == "triplet":
                found = F.triplet_margin_loss(self.anchor, out, out.flip(0), reduction=reduction)
            else:
                found = F.cosine_embedding_loss(out, self.anchor, 2.0 * (y > 1) - 1.0, reduction=reduction)
            return (fixed(y) * found).mean() if self.by_hand else found

    data = loader(shuffle=False)
    ours = weights_of(fit(Shared, LossReweighting(fixed), data=data))
    for key, value in weights_of(fit(type("ByHand", (Shared,), {"by_hand": True}), data=data)).items():
        torch.testing.assert_close(ours[key], value)
