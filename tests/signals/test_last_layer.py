"""The last layer's input against autograd: the step on each row alone, and the gradient of the head's parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_select import BatchSelection
from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.scores.grad_norm import GradNorm
from lightning_select.scores.loss import Loss
from lightning_select.scores.uncertainty import Uncertainty
from lightning_select.selectors.divbs import DivBS
from lightning_select.selectors.k_center import KCenter
from lightning_select.signals.scoring import StepRunner
from tests.fitting import First, fit
from tests.modules import CLASSES, FEATURES, ROWS, TOKENS, Base, features

WIDTH = 7
GRADIENT = GradNorm(features=True)


class Net(Base):
    """A head beside another layer with as many outputs, which runs after it."""

    def __init__(self, step: Any = None, *, outputs: int = CLASSES, bias: bool = True) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, outputs, bias=bias)
        self.other, self.step = nn.Linear(FEATURES, outputs), step

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(self.body(x).tanh())
        self.other(x)
        return z

    def training_step(self, batch, batch_idx):
        return self.step(self, *batch)


def texts(tokens: int = TOKENS, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(rows, tokens, FEATURES, generator=g), torch.randint(0, CLASSES, (rows, tokens), generator=g)


def by_autograd(module: Base, batch: tuple[Tensor, Tensor], parameters: list[nn.Parameter]) -> Tensor:
    """Norm of the gradient of the plain step on each row alone."""
    norms = []
    for x, y in zip(*batch, strict=True):
        loss = module.training_step((x[None], y[None]), 0)
        found = torch.autograd.grad(loss, parameters)
        norms.append(torch.cat([part.flatten() for part in found]).norm())
    return torch.stack(norms)


def measure(module: Base, batch: Any, score: Any = GRADIENT, head: str | None = None):
    return StepRunner(module, None, module.training_step, head=head).measure(batch, {"loss", *score.needs})


def same_up_to_a_factor(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one / one.max(), other / other.max(), rtol=1e-4, atol=1e-6)


def moved(z: Tensor, y: Tensor) -> Tensor:
    z /= 3
    return F.cross_entropy(z.view(-1, CLASSES), y.flatten())


def log_softmax_by_hand(z: Tensor, y: Tensor) -> Tensor:
    return -z.transpose(1, 2).log_softmax(1).gather(1, y[:, None]).mean()


def picked(z: Tensor, y: Tensor) -> Tensor:
    keep = torch.tensor([3, 0, 1])
    return F.cross_entropy(z.index_select(1, keep).movedim(2, 1), y[:, keep])


STEPS = {
    "flattened": lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten()),
    "classes second": lambda z, y: F.cross_entropy(z.transpose(1, 2), y),
    "classes second, by mT": lambda z, y: F.cross_entropy(z.mT.contiguous(), y),
    "time first": lambda z, y: F.cross_entropy(z.transpose(0, 1).flatten(0, 1), y.T.flatten()),
    "last left out": lambda z, y: F.cross_entropy(z[:, :-1].reshape(-1, CLASSES), y[:, 1:].reshape(-1)),
    "first left out": lambda z, y: F.cross_entropy(z[..., 1:, :].contiguous().view(-1, CLASSES), y[:, 1:].flatten()),
    "picked": picked,
    "one token": lambda z, y: F.cross_entropy(z[:, -1], y[:, -1]),
    "cast and scaled": lambda z, y: F.cross_entropy((0.5 * z.double() / 2).permute(0, 2, 1), y),
    "scaled in place": moved,
    "masked": lambda z, y: F.cross_entropy(z[torch.ones_like(y, dtype=torch.bool)], y.flatten()),
    "log-softmax, nll": lambda z, y: F.nll_loss(z.log_softmax(-1).transpose(1, 2), y),
    "log-softmax by hand": log_softmax_by_hand,
    "unreduced": lambda z, y: (F.cross_entropy(z.transpose(1, 2), y, reduction="none") * 2.0).mean(),
    "divergence": lambda z, y: F.kl_div(z.log_softmax(-1), F.one_hot(y, CLASSES) * 0.7 + 0.3 / CLASSES),
}


@pytest.mark.filterwarnings("ignore:reduction. 'mean':UserWarning")
@pytest.mark.parametrize("name", STEPS)
def test_the_gradient_norm_is_that_of_the_head(name: str) -> None:
    module, batch = Net(lambda module, x, y: STEPS[name](module(x), y)), texts()
    found = GRADIENT(measure(module, batch))
    same_up_to_a_factor(found, by_autograd(module, batch, [*module.head.parameters()]))


def test_a_hidden_layer_as_wide_as_there_are_tokens_is_not_taken_for_the_head() -> None:
    module, batch = Net(lambda module, x, y: F.cross_entropy(module(x).transpose(1, 2), y)), texts(WIDTH)
    same_up_to_a_factor(GRADIENT(measure(module, batch)), by_autograd(module, batch, [*module.head.parameters()]))


@pytest.mark.parametrize("bias", [True, False])
def test_the_one_belongs_to_the_bias(bias: bool) -> None:
    module, batch = Net(lambda module, x, y: F.cross_entropy(module(x), y), bias=bias), features()
    same_up_to_a_factor(GRADIENT(measure(module, batch)), by_autograd(module, batch, [*module.head.parameters()]))


BINARY = {
    "squeezed": lambda z, y: F.binary_cross_entropy_with_logits(z.squeeze(-1), (y > 1).float()),
    "picked": lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], (y > 1).float()),
    "sigmoid": lambda z, y: F.binary_cross_entropy(torch.sigmoid(z).view(-1), (y > 1).float()),
}


@pytest.mark.parametrize("name", BINARY)
def test_a_head_with_one_output(name: str) -> None:
    module, batch = Net(lambda module, x, y: BINARY[name](module(x), y), outputs=1), features()
    same_up_to_a_factor(GRADIENT(measure(module, batch)), by_autograd(module, batch, [*module.head.parameters()]))


def written(module: Net, x: Tensor, y: Tensor) -> Tensor:
    z = module(x)
    z[:, 0] = 0.0
    return F.cross_entropy(z, y)


def written_past_the_count(module: Net, x: Tensor, y: Tensor) -> Tensor:
    z = module(x)
    z.data[:, 0] = 0.0
    return F.cross_entropy(z, y)


def input_written(module: Net, x: Tensor, y: Tensor) -> Tensor:
    hidden = module.body(x).tanh()
    z = module.head(hidden)
    hidden.mul_(2.0)
    return F.cross_entropy(z, y)


def index_written(module: Net, x: Tensor, y: Tensor) -> Tensor:
    keep = torch.arange(len(x))
    z = module(x)[keep]
    keep.zero_()
    return F.cross_entropy(z, y)


UNKNOWN = {
    "own product": lambda module, x, y: F.cross_entropy(module(x).tanh() @ torch.ones(CLASSES, CLASSES), y),
    "two layers": lambda module, x, y: F.cross_entropy(module(x) + module.other(x), y),
    "a factor of each row": lambda module, x, y: F.cross_entropy(module(x) * x[:, :1], y),
    "softmax before": lambda module, x, y: F.cross_entropy(module(x).softmax(-1), y),
    "divided by": lambda module, x, y: F.cross_entropy(1.0 / module(x), y),
    "written": written,
    "written past the count": written_past_the_count,
    "input written": input_written,
    "index written": index_written,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_no_layer_is_guessed(name: str) -> None:
    with torch.no_grad():
        signals = measure(Net(UNKNOWN[name]), features())
    assert signals.logits is not None
    assert signals.hidden is None
    with pytest.raises(MissingSignalError, match=r"'hidden'.*one factor for all logits.*head=.*selection_step"):
        GRADIENT(signals)


@pytest.mark.parametrize("selector", [DivBS(), KCenter()])
def test_selectors_of_features_take_classes_second(selector: Any) -> None:
    """They keep what they keep where the same loss is written with tokens and rows in one axis."""
    kept = []
    for name in ("flattened", "classes second"):
        torch.manual_seed(0)
        module, seen = Net(), []

        def step(module: Net, x: Tensor, y: Tensor, name: str = name, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x)
            return STEPS[name](module(x), y)

        module.step = step
        fit(module, BatchSelection(Loss(), selector, keep=4), data=DataLoader(TensorDataset(*texts()), 8), max_steps=1)
        kept.append(seen[-1])
    assert len(kept[0]) == 4
    assert torch.equal(*kept)


def both(module: Net, x: Tensor, y: Tensor) -> Tensor:
    return 0.3 * F.cross_entropy(module.other(x), y) + F.cross_entropy(module(x), y)


@pytest.mark.parametrize("name", ["head", "other"])
def test_of_two_heads_the_one_that_is_named_is_scored(name: str) -> None:
    (x, y), module = features(), Net(both)
    logits = module(x) if name == "head" else module.other(x)
    chances = logits.softmax(1)
    found = Uncertainty()(measure(module, (x, y), Uncertainty(), head=name))
    torch.testing.assert_close(found, -(chances * chances.log()).sum(1))


def test_of_two_heads_none_is_guessed() -> None:
    signals = measure(Net(both), features(), Uncertainty())
    with pytest.raises(MissingSignalError, match=r"'logits'.*several that see different logits.*head="):
        Uncertainty()(signals)
    fit(Net(both), BatchSelection(lambda signals: signals.loss, First(), keep=4), max_steps=1)


def test_the_same_logits_in_several_losses_are_no_two_heads() -> None:
    def mixed(module: Net, x: Tensor, y: Tensor) -> Tensor:
        z = module(x)
        student = F.kl_div((z / 2).log_softmax(1), module.other(x).detach().softmax(1), reduction="batchmean")
        return student + 0.7 * F.cross_entropy(z, y) + 0.3 * F.cross_entropy(z.float(), y.flip(0) * 0 + y)

    (x, y), module = features(), Net(mixed)
    torch.testing.assert_close(measure(module, (x, y)).logits, module(x).detach())
    torch.testing.assert_close(measure(module, (x, y)).hidden, module.body(x).tanh().detach())


def test_two_heads_that_begin_at_zero_are_two() -> None:
    module = Net(both)
    for layer in (module.head, module.other):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert measure(module, features(), Uncertainty()).logits is None


def test_a_named_head_that_cannot_be_followed_is_refused() -> None:
    module = Net(lambda module, x, y: F.cross_entropy(module(x).clamp(-1, 1), y))
    with pytest.raises(ArgumentError, match=r"head must name the output head of Net, got 'head'.*must reach one"):
        fit(module, BatchSelection(Uncertainty(), First(), keep=4, head="head"), max_steps=1)
