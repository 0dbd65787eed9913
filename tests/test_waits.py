"""Law 7 in whole fits: a steady step with us waits for a device no more often than the same step without us.

Operations for which a host would wait are counted as torch dispatches them (``tests.samplers.waits``), with all that is
looked at on a CPU alone switched off. Scores, selectors and weightings alone are in ``test_every_method``, samplers
outside of a fit in ``test_every_sampler``; here everything runs together, loaders included. First steps find out how a
loss is made, and the steps at which loggers are due read what is logged; these are counted apart.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting, SamplerFeedback, SelectionReport
from lightning_select.device_loader import DeviceLoader
from lightning_select.schedule import Anneal, Schedule
from lightning_select.scores.loss import Loss
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.top_k import TopK
from tests.fitting import Rows, fit, loader
from tests.methods import METHODS, class_of, make
from tests.preferences.pairs_of import Pairs, review
from tests.preferences.pairs_of import loader as pair_loader
from tests.samplers.waits import Waits, as_on_a_device
from tests.test_every_sampler import NAMES, Rewarded
from tests.test_every_sampler import make as sampler_of

ROWS, SIZE = 96, 8
STEADY = (3, 11)


class Watch(pl.Callback):
    """Counts what is waited for from the end of one step to the end of another."""

    def __init__(self, first: int, last: int, *, lists: bool) -> None:
        self.first, self.last = first, last
        self.mode = Waits(lists=lists)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.first:
            self.mode.__enter__()
        if batch_idx + 1 == self.last:
            self.mode.__exit__(None, None, None)


def waits_of(
    *callbacks: Any,
    data: Any = None,
    module: Any = Rewarded,
    steps: tuple[int, int] = STEADY,
    lists: bool = False,
    **settings: Any,
) -> list[str]:
    """What the steps of a fit wait for; ``lists`` counts lists and new tensors too, where the loader makes none."""
    watch = Watch(*steps, lists=lists)
    data = loader(rows=ROWS, size=SIZE) if data is None else data
    fit(module, *callbacks, watch, data=data, **({"log_every_n_steps": 1000, "max_epochs": 1} | settings))
    return sorted(watch.mode.seen)


def test_a_wait_would_be_seen() -> None:
    def waiting(losses: torch.Tensor) -> torch.Tensor:
        return losses * losses.sum().item()

    assert waits_of(LossReweighting(waiting)) != waits_of()
    data = DeviceLoader(Rows(rows=ROWS), SIZE, shuffle=True)
    listed = LossReweighting(lambda losses: losses * len(losses.tolist()))
    assert waits_of(listed, data=data, lists=True) != waits_of(data=data, lists=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["DataLoader", "DeviceLoader"])
def test_no_sampler_adds_waits_to_a_fit(name: str, where: str) -> None:
    """A `DataLoader` takes ids from the host, so a draw is a list there, once per batch; a `DeviceLoader` does not."""
    sampler, on_device = sampler_of(name, ROWS, num_samples=ROWS), where == "DeviceLoader"

    def made(**order: Any) -> Any:
        return (DeviceLoader if on_device else DataLoader)(Rows(rows=ROWS), SIZE, **order)

    with as_on_a_device(sampler):
        ours = waits_of(SamplerFeedback(), data=made(sampler=sampler), lists=on_device)
    assert ours == waits_of(data=made(shuffle=True), lists=on_device)


STACKS: dict[str, Callable[[Any], list[Any]]] = {
    "report": lambda folder: [SelectionReport(folder)],
    "report and selection": lambda folder: [SelectionReport(folder), BatchSelection(Loss(), TopK(), keep=0.5)],
    "report and reweighting": lambda folder: [LossReweighting(lambda losses: losses), SelectionReport(folder)],
    "two selections": lambda folder: [
        BatchSelection(Loss(), TopK(), keep=6, name="a"),
        BatchSelection(Loss(), TopK(), keep=4, name="b"),
    ],
    "two reweightings": lambda folder: [
        LossReweighting(torch.ones_like, name="a"),
        LossReweighting(lambda losses: losses.exp(), name="b"),
    ],
    "annealed": lambda folder: [BatchSelection(Loss(), TopK(), keep=Anneal(begin=1.0, end=0.2))],
    "scheduled": lambda folder: [BatchSelection(Loss(), TopK(), keep=0.5, schedule=Schedule(every=2))],
    "in training mode": lambda folder: [BatchSelection(Loss(), TopK(), keep=0.5, train_mode=True)],
    "a score of one's own": lambda folder: [BatchSelection(lambda signals: -signals.loss, TopK(), keep=0.5)],
    "everything": lambda folder: [
        BatchSelection(ReducibleLoss(torch.zeros(ROWS)), TopK(), keep=6, name="first"),
        LossReweighting(lambda losses: losses.exp()),
        BatchSelection(Loss(), TopK(), keep=0.5),
        SelectionReport(folder),
    ],
}


@pytest.mark.parametrize("sampled", [False, True], ids=["", "with a sampler"])
@pytest.mark.parametrize("name", STACKS)
def test_no_stack_of_callbacks_adds_waits(name: str, sampled: bool, tmp_path: Any) -> None:
    sampler = sampler_of("loss_proportional", ROWS) if sampled else None
    data = loader(rows=ROWS, size=SIZE, sampler=sampler, shuffle=False) if sampled else None
    with as_on_a_device(sampler) if sampled else nullcontext():
        ours = waits_of(*STACKS[name](tmp_path), *([SamplerFeedback()] if sampled else []), data=data)
    assert ours == waits_of()


@pytest.mark.parametrize(
    "settings", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}]
)
def test_no_setting_of_the_trainer_makes_us_wait(settings: dict[str, Any], tmp_path: Any) -> None:
    assert waits_of(*STACKS["everything"](tmp_path), **settings) == waits_of(**settings)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_no_method_adds_waits_beside_a_report(kind: str, name: str, tmp_path: Any) -> None:
    """A report hears more of the step than the method asks for."""
    method = ReducibleLoss(torch.zeros(ROWS)) if name == "reducible_loss" else make(kind, name)
    callback = {
        "score": lambda: BatchSelection(method, TopK(), keep=0.5),
        "selector": lambda: BatchSelection(Loss(), method, keep=0.5),
        "weighting": lambda: LossReweighting(method),
    }[kind]()
    assert isinstance(method, class_of(kind, name))
    assert waits_of(callback, SelectionReport(tmp_path)) == waits_of()


def test_peer_review_waits_for_nothing() -> None:
    assert waits_of(data=pair_loader(Pairs(160)), module=review(), steps=(3, 8)) == []


class Quiet(DummyLogger):
    """Takes numbers, and does nothing with them."""

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        pass


CADENCE = {"selection": 11, "reweighting": 8, "sampler": 5, "report": 0, "everything": 36}
"""Waits of a step at which loggers are due, more than it has without us: one for each metric that is logged, another
where that is made a tensor, and two looks at what was noted to be checked."""


@pytest.mark.parametrize("name", CADENCE)
def test_what_the_cadence_of_the_loggers_costs(name: str, tmp_path: Any) -> None:
    sampler = sampler_of("loss_proportional", ROWS)

    def run(*callbacks: Any, every: int, **order: Any) -> collections.Counter[str]:
        data = DeviceLoader(Rows(rows=ROWS), SIZE, **order)
        settings = {"log_every_n_steps": every, "logger": Quiet()}
        return collections.Counter(waits_of(*callbacks, data=data, steps=(7, 9), lists=True, **settings))

    sampled = [SamplerFeedback()] if name in ("sampler", "everything") else []
    stacks = {
        "selection": lambda: [BatchSelection(Loss(), TopK(), keep=0.5)],
        "reweighting": lambda: [LossReweighting(lambda losses: losses)],
        "sampler": list,
        "report": lambda: [SelectionReport(tmp_path)],
        "everything": lambda: STACKS["everything"](tmp_path),
    }
    order: dict[str, Any] = {"sampler": sampler} if sampled else {"shuffle": True}
    with as_on_a_device(sampler):
        due, not_due = (run(*stacks[name](), *sampled, every=every, **order) for every in (4, 1000))
    plain = run(every=4, shuffle=True)
    assert not not_due
    assert sum((due - plain).values()) == CADENCE[name]
    assert not plain - due
