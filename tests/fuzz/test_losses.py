"""Losses composed at random: rows weighed as by hand, or a word that the step cannot be read; never anything else."""

from __future__ import annotations

import collections
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting
from lightning_select.callbacks.weighing import WeighedStep
from lightning_select.errors import SelectionError, TrainingStepContractError
from lightning_select.selectors.top_k import TopK
from tests.fitting import trainer
from tests.fuzz.budget import fuzz
from tests.fuzz.losses import CLASSES, OUTPUTS, TOKENS, Composed, composed

FEATURES = 5
CLOSE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-6},
    torch.float64: {"rtol": 1e-4, "atol": 1e-6},  # weights are float32
    torch.bfloat16: {"rtol": 0.1, "atol": 0.03},
    torch.float16: {"rtol": 0.02, "atol": 0.005},
}


class Module(pl.LightningModule):
    """Somebody's module, with a loss of any form."""

    def __init__(self, loss: Composed) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.loss = loss
        self.net = nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, OUTPUTS))
        self.gradients: list[list[Tensor]] = []
        self.batches: list[Tensor] = []
        if loss.dtype == torch.float64:
            self.double()

    def outputs(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["x"]).to(self.loss.dtype)

    def training_step(self, batch, batch_idx):
        return self.loss.loss(self.outputs(batch), batch, self.net[0].weight)

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append([parameter.grad.clone() for parameter in self.parameters()])

    def on_train_batch_start(self, batch, batch_idx):
        self.batches.append(batch["number"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def batch_of(loss: Composed, seed: int) -> dict[str, Tensor]:
    """Rows with everything that a loss here may ask for."""
    draw, rows = torch.Generator().manual_seed(seed), loss.rows
    y = torch.randint(0, CLASSES, (rows,), generator=draw)
    labels = torch.randint(0, CLASSES, (rows, TOKENS), generator=draw)
    labels[torch.rand(rows, TOKENS, generator=draw) < 0.3] = -100
    labels[:, 0] = y.clamp(min=2)  # some token of each row counts, whatever is ignored
    made = {
        "x": torch.randn(rows, FEATURES, generator=draw),
        "y": y,
        "labels": labels,
        "t": torch.randn(rows, OUTPUTS, generator=draw),
        "mask": (torch.rand(rows, generator=draw) < 0.7).float(),
        "importance": torch.rand(rows, generator=draw) + 0.1,
        "number": torch.arange(rows),
    }
    made["mask"][0] = 1.0
    double = loss.dtype == torch.float64
    return {name: value.double() if double and value.is_floating_point() else value for name, value in made.items()}


def by_hand(module: Module, batch: dict[str, Tensor], weights: Tensor) -> list[Tensor]:
    """The gradient, every row's share of each term times its weight, by a loop over the rows."""
    loss, outputs = module.loss, module.outputs(batch)
    batch = {**batch, "outputs": outputs}
    rows = [{name: value[place : place + 1] for name, value in batch.items()} for place in range(loss.rows)]
    shares = [
        [term.part(outputs[place : place + 1], row, batch) for place, row in enumerate(rows)] for term in loss.terms
    ]
    scalars = [term.whole(outputs, batch).detach().requires_grad_() for term in loss.terms]
    for scalar, parts in zip(scalars, shares, strict=True):
        together = torch.stack([part.float() for part in parts]).sum()
        torch.testing.assert_close(together.detach(), scalar.detach().float(), **CLOSE[loss.dtype])
    total = loss.together(scalars, module.net[0].weight)
    factors = torch.autograd.grad(total, scalars, retain_graph=True)
    followed = [not term.cuts or bool(batch["mask"].all()) for term in loss.terms]
    weighed = sum(
        factor.float() * (weights[place].float() if rows_known else 1.0) * part.float()
        for factor, parts, rows_known in zip(factors, shares, followed, strict=True)
        for place, part in enumerate(parts)
    )
    rest = torch.autograd.grad(total, list(module.parameters()), allow_unused=True, retain_graph=True)
    found = torch.autograd.grad(weighed, list(module.parameters()))
    return [one if other is None else one + other for one, other in zip(found, rest, strict=True)]


def fit(module: Module, batch: dict[str, Tensor], callback: Any) -> None:
    """Two steps on the same batch: the first of which has to find out how the loss is made."""
    items = [{name: value[place] for name, value in batch.items()} for place in range(module.loss.rows)]
    trainer(callback, max_epochs=2).fit(module, DataLoader(items, batch_size=len(items)))


def runs(module: Module, batch: dict[str, Tensor]) -> bool:
    """Does torch have this loss for this type, and is it a number?"""
    try:
        gradient = torch.autograd.grad(module.training_step(batch, 0), list(module.parameters()))
    except (RuntimeError, NotImplementedError):
        return False
    return all(bool(one.isfinite().all()) for one in gradient)


SEEN: collections.Counter[str] = collections.Counter()


@given(composed(), st.integers(0, 10**6))
@fuzz(0.10, quick=100)
def weigh(loss: Composed, seed: int) -> None:
    module, batch = Module(loss), batch_of(loss, seed)
    if not runs(module, batch):
        return
    weights = torch.rand(loss.rows, generator=torch.Generator().manual_seed(seed)) + 0.05
    weights = weights / weights.mean()
    expected, own = by_hand(module, batch, weights), []

    def weighting(losses: Tensor) -> Tensor:
        """What a mask leaves of the rows may be rows of the loss's own, whose places nobody tells."""
        if losses.shape == weights.shape:
            return weights
        own.append(losses)
        return torch.ones_like(losses)

    with mock.patch.object(WeighedStep, "_say_unweighted") as unweighted:
        try:
            fit(module, batch, LossReweighting(weighting))
        except TrainingStepContractError:
            SEEN["refused"] += 1
            return
    if unweighted.called or own:
        SEEN["unweighted"] += 1
        expected = by_hand(module, batch, torch.ones(loss.rows))
    SEEN["weighted"] += 1
    for gradient in module.gradients:
        for found, right in zip(gradient, expected, strict=True):
            torch.testing.assert_close(found, right, check_dtype=False, **CLOSE[loss.dtype])


@given(composed(), st.integers(0, 10**6), st.integers(1, 6))
@fuzz(0.08, quick=80)
def select(loss: Composed, seed: int, keep: int) -> None:
    module, batch = Module(loss), batch_of(loss, seed)
    if not runs(module, batch):
        return
    heard: list[Tensor] = []
    score = lambda signals: heard.append(signals.loss) or signals.loss  # noqa: E731
    try:
        fit(module, batch, BatchSelection(score, TopK(), keep=min(keep, loss.rows)))
    except SelectionError:
        SEEN["not selected"] += 1
        return
    SEEN["selected"] += 1
    for number, gradient in zip(module.batches, module.gradients, strict=True):
        cut = {name: value[number] for name, value in batch.items()}
        plain = torch.autograd.grad(module.training_step(cut, 0), list(module.parameters()))
        for found, right in zip(gradient, plain, strict=True):
            assert torch.equal(found, right) or not right.isfinite().all()
    if loss.separate and heard:
        rows = [{name: value[place : place + 1] for name, value in batch.items()} for place in range(loss.rows)]
        alone = torch.stack([module.training_step(row, 0).detach().float() for row in rows])
        torch.testing.assert_close(heard[-1].float(), alone, **CLOSE[loss.dtype])


@pytest.mark.parametrize(
    ("test", "good", "bad"), [(weigh, "weighted", "refused"), (select, "selected", "not selected")]
)
def test_any_loss_is_read_as_by_hand_or_refused(test: Any, good: str, bad: str) -> None:
    SEEN.clear()
    test()
    assert SEEN[good] > 3 * SEEN[bad], SEEN
