from __future__ import annotations

import collections
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.fitting import First, fit, loader, same, weights_of
from tests.modules import CLASSES, FEATURES, ROWS, Base, Classifier, FusedWithStep, SampleLoss, Uncertain, features

Pair = collections.namedtuple("Pair", ["x", "y"])
FIXED = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.4, 1.6, 1.8, 2.0])


@dataclasses.dataclass
class Sample:
    x: torch.Tensor
    y: torch.Tensor


class Encoding(collections.UserDict):
    pass


FORMS: dict[str, tuple[Any, Any]] = {
    "tuple": (lambda x, y: (x, y), lambda b: b),
    "list": (lambda x, y: [x, y], lambda b: b),
    "tensor": (lambda x, y: torch.cat([x, y[:, None].float()], 1), lambda b: (b[:, :-1], b[:, -1].long())),
    "dict": (lambda x, y: {"x": x, "y": y}, lambda b: (b["x"], b["y"])),
    "namedtuple": (Pair, lambda b: b),
    "dataclass": (Sample, lambda b: (b.x, b.y)),
    "user dict": (lambda x, y: Encoding({"x": x, "y": y}), lambda b: (b["x"], b["y"])),
    "nested": (lambda x, y: {"in": [x, {"y": (y,)}], "n": 3}, lambda b: (b["in"][0], b["in"][1]["y"][0])),
    "strings": (lambda x, y: (x, [str(int(v)) for v in y]), lambda b: (b[0], torch.tensor([int(v) for v in b[1]]))),
}


def one_step(module: Base, batch: Any, *callbacks: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    return weights_of(fit(module, *callbacks, data=DataLoader([batch], batch_size=None), max_epochs=1, **kwargs))


class ByHand(Base):
    def training_step(self, batch, batch_idx):
        return (FIXED * F.cross_entropy(self(batch[0]), batch[1], reduction="none")).mean()


def assert_weighted_as_by_hand(theirs: Base, batch: Any = None) -> None:
    by_hand = ByHand()
    by_hand.load_state_dict(theirs.state_dict())
    got = one_step(theirs, features() if batch is None else batch, LossReweighting(lambda losses: FIXED))
    for key, value in one_step(by_hand, features()).items():
        torch.testing.assert_close(got[key], value)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_with_fixed_weights_is_the_hand_written_one(form: str) -> None:
    pack, unpack = FORMS[form]

    class Theirs(Base):
        def training_step(self, batch, batch_idx):
            x, y = unpack(batch)
            return F.cross_entropy(self(x), y)

    torch.manual_seed(3)
    assert_weighted_as_by_hand(Theirs(), pack(*features()))


@pytest.mark.parametrize("module", [SampleLoss, FusedWithStep])
def test_both_ways_out_are_weighted(module: type[Base]) -> None:
    torch.manual_seed(3)
    assert_weighted_as_by_hand(module())


def test_sample_losses_that_the_loss_was_not_made_of_are_weighted_too() -> None:
    class Beside(Base):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return {"loss": F.cross_entropy(self(batch[0]), batch[1]), "sample_loss": losses}

    torch.manual_seed(3)
    assert_weighted_as_by_hand(Beside())


def test_a_step_may_go_on_with_its_loss_in_place() -> None:
    class Theirs(Base):
        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            loss += 0.5 * self(batch[0]).square().mean(dim=1).mean()
            loss *= 3.0
            return loss

    class ByHand(Base):
        def training_step(self, batch, batch_idx):
            out = self(batch[0])
            losses = F.cross_entropy(out, batch[1], reduction="none") + 0.5 * out.square().mean(dim=1)
            return 3.0 * (losses.detach() / losses.detach().mean() * losses).mean()

    torch.manual_seed(3)
    theirs, by_hand = Theirs(), ByHand()
    by_hand.load_state_dict(theirs.state_dict())
    got = one_step(theirs, features(), LossReweighting(lambda losses: losses))
    for key, value in one_step(by_hand, features()).items():
        torch.testing.assert_close(got[key], value)


def test_a_detached_sample_loss_cannot_be_weighted() -> None:
    class Detached(Base):
        def training_step(self, batch, batch_idx):
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return {"loss": losses.mean(), "sample_loss": losses.detach()}

    with pytest.raises(Exception, match="a 'sample_loss' without a gradient"):
        fit(Detached, LossReweighting(lambda losses: FIXED))


def test_smooth_combinations_are_weighted_term_by_term() -> None:
    """Cross entropy plus a learned weight times the log of a mean square: the weights act inside the log."""
    torch.manual_seed(3)
    module = Uncertain()
    start = {key: value.clone() for key, value in module.state_dict().items()}
    got = one_step(module, features(), LossReweighting(lambda losses: FIXED))
    module.load_state_dict(start)
    x, y = features()
    z = module(x)
    cross, error = F.cross_entropy(z, y, reduction="none"), (z - 1).square()
    plain = torch.stack([cross.mean(), error.mean().log()])
    weighted = torch.stack([(FIXED * cross).mean(), (FIXED[:, None] * error).mean() / error.mean().detach()])
    linear = plain + weighted - torch.stack([cross.mean(), error.mean() / error.mean().detach()])
    loss = (torch.exp(-module.log_scale) * linear + module.log_scale).sum()
    parameters = dict(module.named_parameters())
    # The derivative in log_scale is that of the unweighted loss: the scale is no row.
    scale = torch.autograd.grad(
        (torch.exp(-module.log_scale) * plain.detach() + module.log_scale).sum(), module.log_scale
    )
    gradients = dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))
    gradients["log_scale"] = scale[0]
    for key, value in parameters.items():
        torch.testing.assert_close(got[key], (value - 0.02 * gradients[key]).detach(), rtol=1e-4, atol=1e-6)


def test_rows_of_the_loss_s_own_making_are_weighted() -> None:
    """A module that keeps only some tokens has other rows than its batch: reweighting works, selection says why not."""

    class Windows(Base):
        def training_step(self, batch, batch_idx):
            x, y = batch
            keep = torch.cat([torch.arange(len(x)), torch.arange(len(x) // 2)])
            return F.cross_entropy(self(x[keep]), y[keep])

    seen = []

    def noting(losses: torch.Tensor) -> torch.Tensor:
        seen.append(losses.shape[0])
        return torch.linspace(0.1, 2, losses.shape[0])

    fit(Windows, LossReweighting(noting))
    assert set(seen) == {12}
    with pytest.raises(Exception, match=r"loss terms of the module's own making \(\[12\] for 8 rows\)"):
        fit(Windows, BatchSelection(Loss(), First(), keep=4))


def test_weights_are_detached_and_of_mean_one() -> None:
    seen = []

    class Watching(LossReweighting):
        def weigh(self, losses):
            weights = super().weigh(losses)
            seen.append((losses, weights))
            return weights

    fit(Classifier, Watching(lambda losses: losses.square()))
    for losses, weights in seen:
        assert not losses.requires_grad
        assert not weights.requires_grad
        torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
        torch.testing.assert_close(weights, losses.square() / losses.square().mean())


def test_a_row_without_a_finite_loss_shows_the_mean_of_the_others_and_gets_no_weight() -> None:
    shown = []

    def square(losses: torch.Tensor) -> torch.Tensor:
        shown.append(losses.tolist())
        return losses.square()

    callback: Any = LossReweighting(square)
    callback._trainer = SimpleNamespace(global_step=0)
    weights = callback.weigh(torch.tensor([1.0, torch.nan, 2.0, torch.inf, 6.0, -torch.inf]))
    assert shown == [[1.0, 3.0, 2.0, 3.0, 6.0, 3.0]]
    assert weights.tolist() == pytest.approx([3 / 41, 0.0, 12 / 41, 0.0, 108 / 41, 0.0])
    assert not callback.weigh(torch.full((3,), torch.nan)).any()


def test_a_weighting_that_is_normalised_is_taken_at_its_word() -> None:
    class Fixed:
        normalised = True

        def __call__(self, losses: torch.Tensor) -> torch.Tensor:
            assert losses.isnan()[1]
            return torch.tensor([1.5, 0.0, 0.5])

    callback: Any = LossReweighting(Fixed())
    callback._trainer = SimpleNamespace(global_step=0)
    assert callback.weigh(torch.tensor([1.0, torch.nan, 2.0])).tolist() == [1.5, 0.0, 0.5]


def test_weights_of_selection_and_reweighting_multiply() -> None:
    both = fit(
        Classifier,
        BatchSelection(Loss(), First(lambda n: torch.arange(1.0, n + 1)), keep=4),
        LossReweighting(lambda losses: torch.tensor([2.0, 1.0, 1.0, 0.0])),
    )
    product = fit(Classifier, BatchSelection(Loss(), First(lambda n: torch.tensor([2.0, 2.0, 3.0, 0.0])), keep=4))
    for key, value in weights_of(product).items():
        torch.testing.assert_close(weights_of(both)[key], value)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(precision: str) -> None:
    plain = fit(Classifier, precision=precision)
    assert same(weights_of(plain), weights_of(fit(Classifier, LossReweighting(torch.ones_like), precision=precision)))
    other = weights_of(fit(Classifier, LossReweighting(DynamicLoss()), precision=precision))
    assert not same(weights_of(plain), other)
    assert all(value.isfinite().all() for value in other.values())


def test_half_precision_gradients_are_those_of_the_weighted_loss() -> None:
    torch.manual_seed(3)
    theirs, by_hand = Classifier(), ByHand()
    by_hand.load_state_dict(theirs.state_dict())
    got = one_step(theirs, features(), LossReweighting(lambda losses: FIXED), precision="bf16-mixed")
    for key, value in one_step(by_hand, features(), precision="bf16-mixed").items():
        torch.testing.assert_close(got[key], value, rtol=2e-2, atol=1e-3)


def test_several_closure_calls_per_step() -> None:
    class Newton(Classifier):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=3, lr=0.1)

    plain = weights_of(fit(Newton))
    assert same(plain, weights_of(fit(Newton, LossReweighting(torch.ones_like))))
    assert not same(plain, weights_of(fit(Newton, LossReweighting(lambda losses: losses))))


def test_the_loss_that_is_logged_stays_the_unweighted_one() -> None:
    plain = fit(Classifier, max_steps=1)
    weighted = fit(Classifier, LossReweighting(lambda losses: FIXED), max_steps=1)
    assert torch.equal(plain.callback_metrics["train_loss"], weighted.callback_metrics["train_loss"])


def test_what_is_logged() -> None:
    done = fit(Classifier, LossReweighting(lambda losses: FIXED, name="mine"))
    metrics = {key: float(value) for key, value in done.callback_metrics.items() if key.startswith("mine/")}
    assert set(metrics) == {f"mine/{k}" for k in ("active", "weight_entropy", "weight_max", "loss_mean", "not_finite")}
    assert metrics["mine/weight_max"] == pytest.approx(2.0)
    assert metrics["mine/loss_mean"] == pytest.approx(float(done.callback_metrics["train_loss"]))
    assert 0 < metrics["mine/weight_entropy"] < 1
    assert not any(key.startswith("mine/") for key in done.progress_bar_metrics)


def test_metrics_appear_only_when_the_loggers_are_due() -> None:
    assert not any(
        k.startswith("loss")
        for k in fit(Classifier, LossReweighting(torch.ones_like), log_every_n_steps=50).callback_metrics
    )


def test_both_namespaces() -> None:
    old = pytest.importorskip("pytorch_lightning")

    class Theirs(old.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(FEATURES, CLASSES)
            self.sizes: list[int] = []

        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.sizes.append(len(batch[0]))
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    settings = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    states = []
    for callbacks in ([], [LossReweighting(torch.ones_like)]):
        torch.manual_seed(0)
        module = Theirs()
        old.Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, **settings).fit(module, loader())
        states.append(module.state_dict())
    assert same(*states)
    module = Theirs()
    callbacks = [BatchSelection(Loss(), First(), keep=3), LossReweighting(DynamicLoss())]
    done = old.Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, log_every_n_steps=1, **settings)
    done.fit(module, loader())
    assert set(module.sizes) == {3}
    assert done.callback_metrics["batch_selection/kept_share"] == 3 / ROWS


def test_autocast_inside_the_step() -> None:
    """A step may open a float16 region of its own, which is closed when the terms are asked for."""

    class Half(Base):
        def training_step(self, batch, batch_idx):
            with torch.autocast("cpu", torch.float16):
                return F.cross_entropy(self(batch[0]), batch[1])

    plain = weights_of(fit(Half))
    assert same(plain, weights_of(fit(Half, LossReweighting(torch.ones_like))))
    assert not same(plain, weights_of(fit(Half, LossReweighting(lambda losses: losses))))
