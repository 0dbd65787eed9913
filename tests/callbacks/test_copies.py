"""Copies of the module, made while a fit is on: each runs its own step, during the fit and after."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import types
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_select import BatchSelection, LossReweighting
from lightning_select.callbacks.wrap import Wrap
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.fitting import fit, same, weights_of
from tests.modules import Classifier, features

BOTH = pytest.mark.parametrize(
    "callback",
    [lambda: BatchSelection(Loss(), TopK(), keep=0.5), lambda: LossReweighting(lambda losses: losses)],
    ids=["selection", "reweighting"],
)


def by_torch(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), by_torch], ids=["copy", "pickle", "torch"]
)


class Copying(pl.Callback):
    """Copies the module in the middle of training and asks the copy, its parameters set to zero, for its loss."""

    def __init__(self, way: Any) -> None:
        self.way = way
        self.copies: list[Any] = []
        self.losses: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 2:
            self.copies = [self.way(pl_module)]
            self.copies.append(self.way(self.copies[0]))
            with torch.no_grad():
                for twin in self.copies:
                    for parameter in twin.parameters():
                        parameter.zero_()
                    self.losses.append((twin.training_step(batch, 0), pl_module.training_step(batch, 0)))


@BOTH
@WAYS
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_copy_runs_its_own_step(callback: Any, way: Any) -> None:
    copying = Copying(way)
    done = fit(Classifier, callback(), copying)
    assert len(copying.losses) == 2
    for mine, original in copying.losses:
        torch.testing.assert_close(mine.detach(), torch.tensor(4.0).log())
        assert mine != original
    assert "training_step" not in vars(done.lightning_module)
    for twin in (*copying.copies, *map(way, copying.copies)):  # and after the fit
        assert twin.training_step.__self__ is twin
        torch.testing.assert_close(twin.training_step(features(), 0).detach(), torch.tensor(4.0).log())


@BOTH
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_copy_can_be_trained_under_a_callback_of_its_own(callback: Any) -> None:
    copying = Copying(copy.deepcopy)
    fit(Classifier, callback(), copying)
    plain = Classifier()
    plain.load_state_dict(copying.copies[0].state_dict())
    assert same(weights_of(fit(plain, callback())), weights_of(fit(copying.copies[0], callback())))


@BOTH
def test_an_average_of_the_weights_has_a_step_of_its_own(callback: Any) -> None:
    class Averaging(pl.Callback):
        average: Any = None

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            self.average = self.average or AveragedModel(pl_module)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            self.average.update_parameters(pl_module)

    for order in (1, -1):
        averaging = Averaging()
        fit(Classifier, *[callback(), averaging][::order])
        module = averaging.average.module
        assert module.training_step.__self__ is module


def third(batch: Any, batch_idx: int) -> torch.Tensor:
    return torch.tensor(1 / 3)


class Owner(nn.Module):
    def step(self, batch: Any, batch_idx: int = 0) -> str:
        """Its own step."""
        return f"step of {id(self)}"

    def other(self, batch: Any, batch_idx: int = 0) -> str:
        return f"other of {id(self)}"


def wrapped(owner: Any, name: str = "step") -> Wrap:
    wrap = Wrap(lambda original, *args, **kwargs: f"around {original(*args, **kwargs)}", owner, name)
    wrap.put()
    return wrap


@WAYS
@pytest.mark.parametrize("held", [None, third, "other", "method"])
def test_what_the_owner_held_is_what_a_copy_has(way: Any, held: Any) -> None:
    owner = Owner()
    if held is not None:
        own = {"other": owner.other, "method": types.MethodType(Owner.other, owner)}
        owner.step = held if held is third else own[held]
    plain, wrap = way(owner), wrapped(owner)
    assert str(owner.step(0, 0)).startswith("around ")
    twin = way(owner)
    assert getattr(twin.step, "__func__", twin.step) is getattr(plain.step, "__func__", plain.step)
    assert getattr(twin.step, "__self__", twin) is twin
    wrap.take_off()
    assert vars(owner).get("step") == (None if held is None else owner.step)
    assert not str(owner.step(0, 0)).startswith("around")


@WAYS
def test_the_step_copied_alone_brings_its_owner(way: Any) -> None:
    owner = Owner()
    wrapped(owner)
    step, twin = way([owner.step, owner])
    assert step.__self__ is twin is not owner
    assert way(owner.step).__self__ is not owner


def test_owners_that_copy_themselves() -> None:
    class Shallow(Owner):
        def __deepcopy__(self, memo):
            twin = memo[id(self)] = copy.copy(self)
            vars(twin).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
            return twin

    class Silent(Owner):
        def __deepcopy__(self, memo):
            twin = type(self)()
            vars(twin).update(copy.deepcopy(vars(self)))
            return twin

    owner = Shallow()
    wrapped(owner)
    twin = copy.deepcopy(owner)
    assert twin.step(0) == f"step of {id(twin)}"
    owner = Silent()
    wrapped(owner)
    assert copy.deepcopy(owner).step(0).startswith("step of")  # whose it is cannot be known


def test_static_methods_stay_static() -> None:
    class Static(Owner):
        @staticmethod
        def step(batch):
            return batch

    owner = Static()
    wrapped(owner)
    assert owner.step("a") == "around a"
    assert copy.deepcopy(owner).step("a") == "a"


def test_a_wrap_looks_like_what_it_wraps() -> None:
    owner = Owner()
    wrap = wrapped(owner)
    assert owner.step is wrap
    assert wrap.__name__ == "step"
    assert wrap.__doc__ == "Its own step."
    assert list(inspect.signature(wrap).parameters) == ["batch", "batch_idx"]
    assert wrap.__wrapped__ == types.MethodType(Owner.step, owner)


def test_a_wrap_that_another_one_replaced_stays_away() -> None:
    owner = Owner()
    wrap = wrapped(owner)
    owner.step = third
    wrap.take_off()
    assert owner.step is third


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_wraps_of_one_method_can_be_taken_off_in_any_order(order: tuple[int, ...]) -> None:
    class Owner:
        def method(self) -> str:
            return "own"

    owner = Owner()
    active = [True] * 3

    def around(number: int) -> Any:
        return lambda original: f"{number}{original()}" if active[number] else original()

    wraps = []
    for number in range(3):
        wraps.append(Wrap(around(number), owner, "method"))
        wraps[-1].put()
    left = [0, 1, 2]
    for number in order:
        assert owner.method() == "".join(map(str, reversed(left))) + "own"
        active[number] = False
        wraps[number].take_off()
        left.remove(number)
    assert vars(owner) == {}
    assert owner.method() == "own"
