"""Which logits are meant, where a step has several losses or a head is named, against those the module computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_select.errors import MissingSignalError, SelectionError
from lightning_select.scores.el2n import EL2N
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.signals.base import Signals
from lightning_select.signals.scoring import StepRunner
from tests.modules import CLASSES, Base, features
from tests.signals.test_last_layer import GRADIENT, WIDTH, Net, by_autograd, measure, same_up_to_a_factor


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


needs_fused = pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="needs a newer torch")


def fused(module: Net, layer: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    return F.linear_cross_entropy(module.body(x).tanh(), layer.weight, y, linear_bias=layer.bias)


class TwoFused(Net):
    """Two heads that are given one and the same tensor."""

    def __init__(self, step: Any = None) -> None:
        super().__init__(step or both_fused)
        self.aux = nn.Linear(WIDTH, CLASSES)


def both_fused(module: TwoFused, x: Tensor, y: Tensor) -> Tensor:
    z = module.body(x).tanh()
    losses = [F.linear_cross_entropy(z, one.weight, y, linear_bias=one.bias) for one in (module.aux, module.head)]
    return 0.3 * losses[0] + losses[1]


@needs_fused
def test_a_named_head_that_the_loss_computes_itself_is_read() -> None:
    (x, y), module = features(), Net(lambda module, x, y: fused(module, module.head, x, y))
    torch.testing.assert_close(scored(module, (x, y), head="head"), el2n(module(x), y))
    found = GRADIENT(measure(module, (x, y), head="head"))
    same_up_to_a_factor(found, by_autograd(module, (x, y), [*module.head.parameters()]))


@needs_fused
@pytest.mark.parametrize("name", ["head", "aux"])
def test_of_two_heads_that_losses_compute_the_named_one_is_read(name: str) -> None:
    (x, y), module = features(), TwoFused()
    logits = getattr(module, name)(module.body(x).tanh())
    torch.testing.assert_close(scored(module, (x, y), head=name), el2n(logits, y))


@needs_fused
def test_of_two_heads_that_losses_compute_none_is_guessed() -> None:
    assert measure(TwoFused(), features(), EL2N()).logits is None


@needs_fused
def test_a_head_that_a_loss_computes_is_the_same_as_one_beside_it() -> None:
    def twice(module: Net, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(module(x), y) + fused(module, module.head, x, y)

    (x, y), module = features(), Net(twice)
    torch.testing.assert_close(scored(module, (x, y)), el2n(module(x), y))


def nuclear(module: Any, batch: tuple[Tensor, Tensor], head: str | None = None) -> Tensor:
    runner, score = StepRunner(module, None, module.training_step, head=head), NuclearNorm()
    return [score(runner.measure(batch, score.needs)) for _ in range(2)][-1]


@needs_fused
def test_a_score_of_the_output_head_guesses_none_of_two_that_losses_compute() -> None:
    module = TwoFused()
    module.aux = nn.Linear(WIDTH, CLASSES, bias=False)  # the one whose logits need not be computed
    with pytest.raises(SelectionError, match=r"several.*(head=|aux\.weight)"):
        nuclear(module, features())


@needs_fused
@pytest.mark.parametrize("name", ["head", "aux"])
def test_a_score_of_the_output_head_takes_the_one_that_is_named(name: str) -> None:
    module = TwoFused()
    logits = getattr(module, name)(module.body(features()[0]).tanh()).detach()
    torch.testing.assert_close(nuclear(module, features(), name), NuclearNorm()(Signals(logits=logits)))


@pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning")
def test_a_log_softmax_over_the_axis_that_torch_chooses_is_read() -> None:
    module = Net(lambda module, x, y: -F.log_softmax(module(x)).gather(1, y[:, None]).mean())
    x, y = features()
    torch.testing.assert_close(scored(module, (x, y)), el2n(module(x), y))
    found = GRADIENT(measure(module, (x, y)))
    same_up_to_a_factor(found, by_autograd(module, (x, y), [*module.head.parameters()]))


def test_where_only_targets_are_missing_logits_are_not_called_missing() -> None:
    module = Net(lambda module, x, y: -module(x).log_softmax(1)[torch.arange(len(y)), y].mean())
    with pytest.raises(
        MissingSignalError, match=r"got only loss, logits.*shows no targets.*gather.*Or define"
    ) as caught:
        scored(module, features())
    assert "no logits" not in str(caught.value)


class Pixels(Base):
    """Two heads of convolutions, of which one comes in a lower resolution."""

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        self.body, self.out, self.aux = nn.Conv2d(3, WIDTH, 3, 2, 1), nn.Conv2d(WIDTH, CLASSES, 1), None
        if not alone:
            self.aux = nn.Conv2d(WIDTH, CLASSES, 1)

    def logits(self, head: nn.Module, x: Tensor) -> Tensor:
        return F.interpolate(head(self.body(x)), size=x.shape[-2:], mode="bilinear")

    def training_step(self, batch, batch_idx):
        x, y = batch
        heads = [head for head in (self.aux, self.out) if head is not None]
        return sum(F.cross_entropy(self.logits(head, x), y) for head in heads)


def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    return torch.randn(8, 3, 6, 6, generator=g), torch.randint(0, CLASSES, (8, 6, 6), generator=g)


@pytest.mark.parametrize(("name", "alone"), [("out", True), ("out", False), ("aux", False)])
def test_a_head_of_convolutions_is_read_by_its_name(name: str, alone: bool) -> None:
    (x, y), module = images(), Pixels(alone=alone)
    logits = module.logits(getattr(module, name), x).detach().permute(0, 2, 3, 1).flatten(1, 2)
    signals = measure(module, (x, y), EL2N(), head=name)
    torch.testing.assert_close(signals.logits, logits)
    assert signals.hidden is None
    assert measure(Pixels(), (x, y), EL2N()).logits is None


def test_what_two_heads_are_both_given_needs_no_choice_between_them() -> None:
    def step(module: TwoFused, x: Tensor, y: Tensor) -> Tensor:
        z = module.body(x).tanh()
        return F.cross_entropy(module.head(z), y) + F.cross_entropy(module.aux(z), y)

    (x, y), module = features(), TwoFused(step)
    signals = StepRunner(module, None, module.training_step).measure((x, y), {"loss", "hidden"})
    torch.testing.assert_close(signals.hidden, module.body(x).tanh().detach())
    assert signals.logits is None
