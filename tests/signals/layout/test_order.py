"""Steps that bring their rows into an order of their own are refused; honest steps are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_select import BatchSelection, LossReweighting
from lightning_select.errors import TrainingStepContractError
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.layout.order import find_rows
from lightning_select.signals.layout.rows import Layout
from lightning_select.signals.scoring import StepRunner
from tests.fitting import fit
from tests.modules import CLASSES, FEATURES, ROWS, Base, Tokens, features, text

REFUSED = "Step.training_step must .* the step reorders its rows"


def step(training_step: Callable[..., Any], net: Callable[[], nn.Module] | None = None) -> type[Base]:
    """A module with this step."""

    class Step(Base):
        def __init__(self) -> None:
            super().__init__()
            self.net = self.net if net is None else net()

    Step.training_step = training_step  # type: ignore[method-assign]
    return Step


def shuffled(self, batch, batch_idx):
    x, y = batch
    order = torch.randperm(len(x))
    return F.cross_entropy(self(x[order]), y[order])


def shuffled_by_numpy(self, batch, batch_idx):
    x, y = batch
    order = torch.from_numpy(np.random.permutation(len(x)))  # noqa: NPY002 (as users draw)
    return F.cross_entropy(self(x[order]), y[order], reduction="none").mean()


def shuffled_by_python(self, batch, batch_idx):
    x, y = batch
    order = random.sample(range(len(x)), len(x))
    return F.cross_entropy(self(x[order]), y[order])


def shuffled_later(self, batch, batch_idx):
    x, y = batch
    losses = F.cross_entropy(self(x), y, reduction="none")
    return losses[torch.randperm(len(x))].mean()


def sorted_by_a_feature(self, batch, batch_idx):
    x, y = batch
    order = x[:, 0].argsort()
    return F.cross_entropy(self(x[order]), y[order])


def sorted_by_class(self, batch, batch_idx):
    x, y = batch
    order = y.argsort(stable=True)
    return F.cross_entropy(self(x[order]), y[order])


def sorted_by_loss(self, batch, batch_idx):
    x, y = batch
    return F.cross_entropy(self(x), y, reduction="none").sort(descending=True).values.mean()


def the_larger_half(self, batch, batch_idx):
    x, y = batch
    losses = F.cross_entropy(self(x), y, reduction="none")
    return losses.topk(len(x) // 2).values.mean()


def every_loss_by_topk(self, batch, batch_idx):
    x, y = batch
    return F.cross_entropy(self(x), y, reduction="none").topk(len(x)).values.mean()


def shuffled_beside_a_penalty(self, batch, batch_idx):
    return shuffled(self, batch, batch_idx) + 1e-3 * self.net[0].weight.square().sum()


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, CLASSES))


SHUFFLING = [
    *(shuffled, shuffled_by_numpy, shuffled_by_python, shuffled_later, shuffled_beside_a_penalty),
    *(sorted_by_a_feature, sorted_by_class, sorted_by_loss, every_loss_by_topk),
]


@pytest.mark.parametrize("make", SHUFFLING)
@pytest.mark.parametrize("net", [None, normalised])
@pytest.mark.parametrize("train_mode", [False, True])
def test_a_step_that_reorders_its_rows_is_refused(make: Any, net: Any, train_mode: bool) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        module = step(make, net)()
        runner = StepRunner(module, None, module.training_step, train_mode=train_mode)
        with pytest.raises(TrainingStepContractError, match=REFUSED):
            runner.measure(features(seed), {"loss"})


def test_half_of_the_rows_cannot_be_selected() -> None:
    module = step(the_larger_half)()
    with pytest.raises(TrainingStepContractError, match="Step.training_step must show one loss per row"):
        StepRunner(module, None, module.training_step).measure(features(), {"loss"})


@pytest.mark.parametrize(
    "callback", [lambda: LossReweighting(torch.ones_like), lambda: BatchSelection(Loss(), TopK(), keep=4)]
)
def test_both_callbacks_refuse(callback: Any) -> None:
    with pytest.raises(TrainingStepContractError, match=REFUSED):
        fit(step(shuffled), callback())


def test_losses_of_pairs_are_to_be_summed_by_row_first() -> None:
    """Rows trade places in both axes; that is no shuffling, and which of the two rows counts is not ours to say."""
    module = step(lambda self, batch, batch_idx: of_pairs(self, batch).sum() / len(batch[0]))()
    with pytest.raises(TrainingStepContractError, match=r"got a loss term for every pair of the 8 rows.*sum\(dim=1\)"):
        StepRunner(module, None, module.training_step).measure(features(), {"loss"})
    module = step(lambda self, batch, batch_idx: of_pairs(self, batch).sum(dim=1).mean())()
    losses = StepRunner(module, None, module.training_step).measure(features(), {"loss"}).loss
    torch.testing.assert_close(losses, of_pairs(module, features()).sum(dim=1).detach())


def test_shuffled_texts() -> None:
    class Step(Tokens):
        def training_step(self, batch, batch_idx):
            order = torch.randperm(len(batch["input_ids"]))
            return super().training_step({key: value[order] for key, value in batch.items()}, batch_idx)

    module = Step()
    with pytest.raises(TrainingStepContractError, match=REFUSED):
        StepRunner(module, None, module.training_step).measure(text(), {"loss"})


def test_a_few_rows_that_are_shuffled() -> None:
    """Reversing four rows shows two thirds of the ways to shuffle them; the other draws show the rest."""
    for seed in range(12):
        torch.manual_seed(seed)
        module = step(shuffled)()
        with pytest.raises(TrainingStepContractError, match=REFUSED):
            StepRunner(module, None, module.training_step).measure(features(rows=4), {"loss"})


def mixup(self, batch, batch_idx):
    x, y = batch
    share = float(np.random.beta(0.2, 0.2))  # noqa: NPY002
    order = torch.randperm(len(x))
    z = self(share * x + (1 - share) * x[order])
    return share * F.cross_entropy(z, y) + (1 - share) * F.cross_entropy(z, y[order])


def mixup_of_losses(self, batch, batch_idx):
    x, y = batch
    share = float(np.random.beta(0.2, 0.2))  # noqa: NPY002
    order = torch.randperm(len(x))
    z = self(share * x + (1 - share) * x[order])
    one, other = (F.cross_entropy(z, target, reduction="none") for target in (y, y[order]))
    return (share * one + (1 - share) * other).mean()


def noisy(self, batch, batch_idx):
    x, y = batch
    noise = np.random.randn(*x.shape)  # noqa: NPY002
    return F.cross_entropy(self(x + torch.from_numpy(noise).float()), y)


def denoising(self, batch, batch_idx):
    """Noise of each place, and nothing but noise to be seen by a new model."""
    x, _ = batch
    time = torch.randint(1, 10, (len(x),))
    noise = torch.randn_like(x)
    guess = self.net[0](x * (1 - time[:, None] / 10) + noise * time[:, None] / 10)[:, :FEATURES]
    return F.mse_loss(guess, noise)


def neighbours(self, batch, batch_idx):
    """A term for every pair of neighbours: reversed, the same terms stand one place further."""
    x, y = batch
    z = self(x)
    return F.cross_entropy(z, y) + F.relu(1 - (z - z.roll(1, 0)).norm(dim=1)).mean()


def put_back(self, batch, batch_idx):
    """Shuffled for BatchNorm, as in momentum contrast, and back."""
    x, y = batch
    order = torch.randperm(len(x))
    return F.cross_entropy(self(x[order])[order.argsort()], y)


def hinge(self, batch, batch_idx):
    """Most terms are zero."""
    x, y = batch
    return F.multi_margin_loss(self(x), y, margin=0.05)


def alike(self, batch, batch_idx):
    x, y = batch
    return F.cross_entropy(self(x) * 0, y)


def contrastive(self, batch, batch_idx):
    x, _ = batch
    z = F.normalize(self(x), dim=-1)
    return F.cross_entropy(z @ F.normalize(self(x * 1.1 + 0.2), dim=-1).T / 0.5, torch.arange(len(x)))


def beside_sorted(self, batch, batch_idx):
    """A distance of distributions beside the loss: it belongs to no row and stays unweighted."""
    x, y = batch
    z = self(x)
    return F.cross_entropy(z, y) + 0.1 * F.mse_loss(
        z.sort(0).values, torch.linspace(-1, 1, len(x))[:, None].expand_as(z)
    )


def of_pairs(self, batch):
    """The losses of SigLIP: one for every pair of rows, whether they belong together or not."""
    x, _ = batch
    z = F.normalize(self(x), dim=-1) @ F.normalize(self(x * 1.1 + 0.2), dim=-1).T
    return -F.logsigmoid((2 * torch.eye(len(x)) - 1) * (3 * z - 1))


def beside_pairs(self, batch, batch_idx):
    return F.cross_entropy(self(batch[0]), batch[1]) + 0.1 * of_pairs(self, batch).sum() / len(batch[0])


HONEST = [
    *(mixup, mixup_of_losses, noisy, denoising, neighbours, put_back, hinge, alike),
    *(contrastive, beside_sorted, beside_pairs),
]


@pytest.mark.parametrize("make", HONEST)
@pytest.mark.parametrize("net", [None, normalised])
@pytest.mark.parametrize("train_mode", [False, True])
def test_an_honest_step_is_not_refused(make: Any, net: Any, train_mode: bool) -> None:
    for seed in range(8 if "mixup" in make.__name__ else 3):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        module = step(make, net)()
        runner = StepRunner(module, None, module.training_step, train_mode=train_mode)
        assert runner.measure(features(seed), {"loss"}).loss.shape == (ROWS,)


@pytest.mark.parametrize("rows", [[0] * ROWS, [0, 1] * 4, [0, 0, 0, 1, 2, 3, 3, 0], [0, 1, 2, 3, 3, 2, 1, 0]], ids=str)
@pytest.mark.parametrize("make", [None, noisy, mixup])
def test_a_batch_that_holds_rows_twice_is_not_refused(rows: list[int], make: Any) -> None:
    module = Base() if make is None else step(make)()
    if make is None:
        module = step(lambda self, batch, batch_idx: F.cross_entropy(self(batch[0]), batch[1]))()
    x, y = features()
    batch = x[rows], y[rows]
    losses = StepRunner(module, None, module.training_step).measure(batch, {"loss"}).loss
    if make is None:
        torch.testing.assert_close(losses, F.cross_entropy(module(batch[0]), batch[1], reduction="none").detach())


def test_a_step_that_asks_for_sorted_rows() -> None:
    """It cannot be run on its rows in reverse; what is known of their number has to do."""

    def packing(self, batch, batch_idx):
        x, y = batch
        if (x[:-1, 0] < x[1:, 0]).any():
            raise RuntimeError("rows must be sorted")
        return F.cross_entropy(self(x), y)

    module, (x, y) = step(packing)(), features()
    order = x[:, 0].argsort(descending=True)
    batch = x[order], y[order]
    losses = StepRunner(module, None, module.training_step).measure(batch, {"loss"}).loss
    torch.testing.assert_close(losses, F.cross_entropy(module(batch[0]), batch[1], reduction="none").detach())


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        (lambda values, order: values[order], "moved"),
        (lambda values, order: values[order] + 0.01 * torch.randn(ROWS), "nearly"),
        (lambda values, order: values, "still"),
        (lambda values, order: values + 0.01 * torch.randn(ROWS), "changed"),
        (lambda values, order: values[torch.tensor([2, 0, 1, 5, 7, 3, 4, 6])], "shuffled"),
        (lambda values, order: torch.randn(ROWS), "changed"),
        (lambda values, order: torch.randn(ROWS + 1), "unknown"),
    ],
)
def test_signs(change: Callable[[Tensor, Tensor], Tensor], sign: str) -> None:
    values, order = torch.randn(ROWS), torch.arange(ROWS).flip(0)
    found = find_rows(values, (values[:2], 2), (change(values, order), order), ROWS)
    assert found.sign == sign
    assert found.layout == (None if sign == "still" or "0.01" in sign else found.layout)
    if sign in ("moved", "nearly", "unknown"):
        assert found.layout == Layout(0)


def test_terms_of_pairs_go_with_both_rows() -> None:
    values, order = torch.randn(ROWS, 3, ROWS), torch.arange(ROWS).flip(0)
    found = find_rows(values, (values[:2, :, :2], 2), (values[order][..., order], order), ROWS)
    assert (found.layout, found.sign) == (None, "pairs")


def test_terms_that_are_alike_show_nothing() -> None:
    values, order = torch.full((ROWS,), 3.0), torch.arange(ROWS).flip(0)
    assert find_rows(values, None, (values, order), ROWS).sign == "alike"


def test_two_samples_of_much_noise_are_not_the_same_terms() -> None:
    values, other = torch.randn(2, 64, 4096).square()
    order = torch.arange(64).flip(0)
    assert find_rows(values, (values[:2], 2), (other, order), 64).sign == "changed"
