"""Checks that a LightningModule which nobody here wrote must pass, untouched, under our callbacks."""

from __future__ import annotations

import copy
import importlib
import inspect
import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_select import BatchSelection, LossReweighting
from lightning_select.batch import count_rows, take_rows
from lightning_select.compat import Callback
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.scoring import StepRunner
from lightning_select.types import Selection


@dataclass(frozen=True)
class Case:
    """A module and the batches to train it on.

    Attributes:
        make: Builds the module; called under a fixed seed.
        batches: Builds the batches; called under a fixed seed.
        namespace: The Lightning that the module's base class comes from.
        trainer: Further arguments of the Trainer.
        steps: Training steps.
    """

    make: Callable[[], Any]
    batches: Callable[[], Sequence[Any]]
    namespace: str = "lightning.pytorch"
    trainer: dict[str, Any] = field(default_factory=dict)
    steps: int = 4

    def __str__(self) -> str:
        return getattr(self.make, "__name__", "case")


@dataclass(frozen=True)
class Fitted:
    """What a fit left behind: values, gradients of the first step, rows of every step, attributes that were new."""

    state: dict[str, Tensor]
    gradients: dict[str, Tensor]
    rows: list[int]
    attributes: list[str]


@dataclass(frozen=True)
class FirstRows:
    """Selects the first rows, whatever their scores."""

    needs = frozenset[str]()
    with_replacement = False

    def __call__(self, scores: Tensor, count: int, context: Any) -> Selection:
        return Selection(torch.arange(count, device=scores.device))


def check_unit_weights(case: Case, terms: int | None = None) -> None:
    """Weights of one train bit for bit like no callback, and leave no attribute; every step asks for them.

    Args:
        case: The case.
        terms: Losses that the weighting sees in every step, where these are not one per row.
    """
    asked: list[int] = []

    def ones(losses: Tensor) -> Tensor:
        asked.append(len(losses))
        return torch.ones_like(losses)

    plain, weighted = fit(case), fit(case, LossReweighting(ones))
    assert any(gradient.any() for gradient in plain.gradients.values())
    assert len(asked) == case.steps
    assert asked == (weighted.rows if terms is None else [terms] * case.steps)
    assert_same(weighted, plain)


def check_selection(case: Case, share: float = 0.5) -> None:
    """A selection trains on the rows that it chose as plain training does on those rows, and leaves no trace."""
    kept = int(count_rows(batches_of(case)[0]) * share)
    by_loss = fit(case, BatchSelection(Loss(), TopK(), keep=kept))
    assert by_loss.rows == [kept] * case.steps
    by_place, plain = fit(case, BatchSelection(Loss(), FirstRows(), keep=kept)), fit(case, rows=kept)
    assert by_place.rows == plain.rows == [kept] * case.steps
    assert_same(by_place, plain)
    assert by_loss.attributes == plain.attributes


def check_row_losses(case: Case, *, independent: bool = True, mean: bool = True, rtol: float = 1e-4) -> Tensor:
    """The row losses that a score sees on the first batch.

    Args:
        case: The case.
        independent: Is the loss of a row alone the loss that it has in company?
        mean: Is the loss the mean of the row losses?
        rtol: Relative tolerance.
    """
    found: dict[str, Tensor] = {}

    def measure(trainer: Any, module: Any, batch: Any) -> None:
        runner = StepRunner(module, trainer, module.training_step)
        seed(4)
        found["rows"] = runner.measure(copy.deepcopy(batch), {"loss"}).need("loss", "test")
        found["loss"] = own_loss(module, batch)
        rows = len(found["rows"]) if independent else 0
        found["alone"] = torch.tensor([own_loss(module, take_rows(batch, torch.tensor([row]))) for row in range(rows)])

    fit(case, _AtFirstBatch(measure), steps=1)
    losses = found["rows"]
    assert losses.isfinite().all()
    assert losses.unique().numel() > 1
    if mean:
        torch.testing.assert_close(losses.mean(), found["loss"], rtol=rtol, atol=1e-6)
    if independent:
        torch.testing.assert_close(losses, found["alone"], rtol=rtol, atol=1e-6)
    return losses


def check_weighted_gradient(
    case: Case, oracle: Callable[[Any, Any, Tensor], Tensor] | None = None, rtol: float = 1e-4
) -> None:
    """The gradient of one step under arbitrary fixed weights is that of the loss weighted by hand.

    Args:
        case: The case; it is trained in evaluation mode, so that no dropout and no batch statistic interferes.
        oracle: From module, batch and weights of mean one to the weighted loss; where it is not given, the mean of the
            losses of each row alone, times its weight.
        rtol: Relative to the largest entry of each gradient.
    """
    rows = count_rows(batches_of(case)[0])
    raw = torch.linspace(0.0, 2.0, rows)[torch.randperm(rows, generator=torch.Generator().manual_seed(5))]
    expected: dict[str, Tensor] = {}

    def weigh_by_hand(trainer: Any, module: Any, batch: Any) -> None:
        seed(4)
        with muted(module), torch.enable_grad():
            loss = (oracle or weighted_rows)(module, copy.deepcopy(batch), raw / raw.mean())
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
        expected.update({name: g for (name, _), g in zip(named, gradients, strict=True) if g is not None})

    fit(case, _AtFirstBatch(weigh_by_hand), steps=1, evaluating=True)
    got = fit(case, LossReweighting(lambda losses: raw.to(losses)), steps=1, evaluating=True).gradients
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name in got.keys() | expected.keys():
        nothing = torch.zeros_like(got[name] if name in got else expected[name])
        one, other = got.get(name, nothing), expected.get(name, nothing)
        atol = rtol * max(float(other.abs().max()), 0.01 * largest)
        torch.testing.assert_close(one, other, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def fit(
    case: Case, *callbacks: Any, rows: int | None = None, steps: int | None = None, evaluating: bool = False
) -> Fitted:
    """Train from a fixed seed, on batches cut by hand to their first ``rows`` rows where that is asked for."""
    batches = batches_of(case)
    if rows is not None:
        batches = [take_rows(batch, torch.arange(rows)) for batch in batches]
    seed(2)
    module = case.make()
    if evaluating:
        module.eval()
    before = {name: set(vars(part)) for name, part in module.named_modules()}
    recorder = _Recorder(reseed=evaluating)
    trainer = importlib.import_module(case.namespace).Trainer(
        accelerator="cpu",
        max_steps=steps or case.steps,
        max_epochs=100,
        callbacks=[*callbacks, recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **case.trainer,
    )
    seed(3)
    trainer.fit(module, DataLoader(_Copies(batches), batch_size=None))
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    new = [
        f"{name}.{key}" for name, part in module.named_modules() for key in set(vars(part)) - before.get(name, set())
    ]
    return Fitted(
        state={name: value.detach().clone() for name, value in state.items()},
        gradients=recorder.gradients,
        rows=recorder.rows,
        attributes=sorted(new),
    )


def batches_of(case: Case) -> Sequence[Any]:
    """The batches of a case, always the same."""
    seed(1)
    return case.batches()


def seed(value: int) -> None:
    """Seed every generator that a module may draw from."""
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 (for packages that draw from it)
    torch.manual_seed(value)


def run_step(module: Any, batch: Any) -> Tensor:
    """The loss that a module's own step returns."""
    parameters = [p for p in inspect.signature(module.training_step).parameters.values() if p.kind < p.KEYWORD_ONLY]
    output = module.training_step(*(batch, 0)[: len(parameters)])
    return output["loss"] if isinstance(output, dict) else output


def own_loss(module: Any, batch: Any) -> Tensor:
    """The module's own loss on a batch, in evaluation mode; afterwards the module is as before."""
    state = copy.deepcopy(module.state_dict())
    training = [part for part in module.modules() if part.training]
    module.eval()
    seed(4)
    with muted(module), torch.no_grad():
        loss = run_step(module, copy.deepcopy(batch)).float().reshape(())  # some return a loss of shape (1,)
    for part in training:
        part.training = True
    module.load_state_dict(state)
    return loss


def weighted_rows(module: Any, batch: Any, weights: Tensor) -> Tensor:
    """The mean of the losses of each row alone, times its weight."""
    alone = [run_step(module, take_rows(copy.deepcopy(batch), torch.tensor([row]))) for row in range(len(weights))]
    return (torch.stack(alone) * weights).mean()


def assert_same(got: Fitted, expected: Fitted) -> None:
    """Bit for bit the same values, and the same attributes."""
    assert got.state.keys() == expected.state.keys()
    different = [name for name, value in got.state.items() if not torch.equal(value, expected.state[name])]
    assert not different, f"{len(different)} of {len(got.state)} tensors differ: {different[:5]}"
    assert got.attributes == expected.attributes, f"{got.attributes} instead of {expected.attributes}"


@contextmanager
def muted(module: Any) -> Any:
    """Inside, ``self.log`` does nothing."""
    module.log = module.log_dict = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del module.log, module.log_dict


class _Recorder(Callback):
    """Notes the gradients of the first step and the rows that every step sees."""

    def __init__(self, *, reseed: bool) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.rows: list[int] = []
        self._reseed = reseed

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(count_rows(batch))
        if self._reseed:
            seed(4)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if not self.gradients:
            self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}


class _AtFirstBatch(Callback):
    """Calls a function with Trainer, module and batch just before the first step."""

    def __init__(self, function: Callable[[Any, Any, Any], None]) -> None:
        self._function = function

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._function(trainer, pl_module, batch)


class _Copies(Dataset):  # type: ignore[type-arg]
    """Ready batches, a fresh copy each time, because a step may write into its batch."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, position: int) -> Any:
        return copy.deepcopy(self._batches[position])
