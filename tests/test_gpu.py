"""What only a GPU shows; run with ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

import collections
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F

from lightning_select import BatchSelection, LossReweighting, SamplerFeedback, SelectionReport
from lightning_select.device_loader import DeviceLoader
from lightning_select.scores.el2n import EL2N
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.divbs import DivBS
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.facility_location import FacilityLocation
from lightning_select.selectors.importance import Importance
from lightning_select.selectors.k_center import KCenter
from lightning_select.selectors.percentile import Percentile
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.fitting import First, Rows, fit, loader, same, weights_of
from tests.methods import METHODS
from tests.methods import make as method_of
from tests.modules import Base, Classifier
from tests.test_every_sampler import NAMES, Rewarded
from tests.test_every_sampler import make as sampler_of
from tests.test_waits import STACKS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

GPU: dict[str, Any] = {"accelerator": "gpu", "devices": 1}
CALLBACKS = {
    "top_k": lambda: BatchSelection(Loss(), TopK(), keep=0.5),
    "percentile": lambda: BatchSelection(EL2N(), Percentile(), keep=0.5),
    "importance": lambda: BatchSelection(EL2N(), Importance(), keep=0.5),
    "diverse": lambda: BatchSelection(Loss(), Diverse(capacity=16), keep=0.5),
    "uds": lambda: BatchSelection(NuclearNorm(), Diverse(capacity=16), keep=0.5),
    "uds, greedy": lambda: BatchSelection(NuclearNorm(), Diverse(capacity=16, greedy=True), keep=0.5),
    "divbs": lambda: BatchSelection(Loss(), DivBS(), keep=0.5),
    "k_center": lambda: BatchSelection(Loss(), KCenter(), keep=0.5),
    "facility_location": lambda: BatchSelection(Loss(), FacilityLocation(), keep=0.5),
    "reducible_loss": lambda: BatchSelection(ReducibleLoss(torch.zeros(96)), TopK(), keep=0.5),
    "dynamic_loss": lambda: LossReweighting(DynamicLoss()),
}


class Silent(Base):
    """Does not log, so that nothing but the callbacks could wait for the device."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


class NoWaits(pl.Callback):
    """Any wait for the device between the third and the tenth step is an error."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 3:
            torch.cuda.set_sync_debug_mode("error")
        if trainer.global_step == 10:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", CALLBACKS)
def test_law_7_a_steady_step_waits_for_nothing(kind: str) -> None:
    try:
        data = loader(rows=96, pin_memory=True)
        fit(Silent, CALLBACKS[kind](), NoWaits(), data=data, log_every_n_steps=1000, max_epochs=1, **GPU)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def callback_of(kind: str, name: str) -> pl.Callback:
    """The callback that puts a method to use."""
    method = ReducibleLoss(torch.zeros(96)) if name == "reducible_loss" else method_of(kind, name)
    if kind == "weighting":
        return LossReweighting(method)
    return BatchSelection(*((method, TopK()) if kind == "score" else (Loss(), method)), keep=0.5)


class Silently(Rewarded):
    """Says how often it was right, and logs nothing."""

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass


def on_device(**order: Any) -> DeviceLoader:
    """A loader whose batches, and draws of a sampler, never leave the device."""
    return DeviceLoader(Rows(rows=96), 8, **order)


def quietly(module: Any, *callbacks: Any, data: Any) -> None:
    """Fit for one epoch in which no logger is due."""
    try:
        fit(module, *callbacks, data=data, log_every_n_steps=1000, max_epochs=1, **GPU)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_law_7_no_method_waits(kind: str, name: str, tmp_path: Any) -> None:
    quietly(Silent, callback_of(kind, name), SelectionReport(tmp_path), NoWaits(), data=on_device(shuffle=True))


@pytest.mark.parametrize("name", NAMES)
def test_law_7_no_sampler_waits(name: str) -> None:
    sampler = sampler_of(name, 96, num_samples=96)
    quietly(Silently, SamplerFeedback(), NoWaits(), data=on_device(sampler=sampler))


@pytest.mark.parametrize("name", STACKS)
def test_law_7_no_stack_waits(name: str, tmp_path: Any) -> None:
    sampler = sampler_of("loss_proportional", 96)
    quietly(Silently, *STACKS[name](tmp_path), SamplerFeedback(), NoWaits(), data=on_device(sampler=sampler))


class Profiled(pl.Callback):
    """Counts what the CUDA runtime was asked for between the ends of the third and the tenth step."""

    WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "Memcpy DtoH")

    def __init__(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        self.profiler = torch.profiler.profile(activities=activities)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            self.profiler.start()
        if trainer.global_step == 10:
            self.profiler.stop()

    @property
    def waits(self) -> collections.Counter[str]:
        """How often each of these was called; a profiler synchronises too, with us and without."""
        found: collections.Counter[str] = collections.Counter()
        for event in self.profiler.key_averages():
            found.update({name: event.count for name in self.WAITS if event.key.startswith(name)})
        return found


def test_the_profiler_sees_a_wait() -> None:
    class Waiting(Silent):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * (1.0 if float(loss.detach()) > 0 else 2.0)

    plain, waiting = Profiled(), Profiled()
    quietly(Silent, plain, data=on_device(shuffle=True))
    quietly(Waiting, waiting, data=on_device(shuffle=True))
    assert sum((waiting.waits - plain.waits).values()) >= 7


@pytest.mark.parametrize("name", STACKS)
def test_law_7_the_runtime_is_asked_to_wait_as_often_as_by_lightning_alone(name: str, tmp_path: Any) -> None:
    plain, ours = Profiled(), Profiled()
    quietly(Silently, plain, data=on_device(shuffle=True))
    sampler = sampler_of("loss_proportional", 96)
    quietly(Silently, *STACKS[name](tmp_path), SamplerFeedback(), ours, data=on_device(sampler=sampler))
    assert not ours.waits - plain.waits


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_law_1_unit_weights(precision: str) -> None:
    settings = GPU | {"precision": precision, "deterministic": True}
    plain = weights_of(fit(Classifier, **settings))
    assert same(plain, weights_of(fit(Classifier, LossReweighting(torch.ones_like), **settings)))


def test_draws_are_deterministic_where_the_trainer_asks_for_it() -> None:
    settings = GPU | {"deterministic": True}
    for kind in ("importance", "percentile", "diverse"):
        assert same(
            weights_of(fit(Classifier, CALLBACKS[kind](), **settings)),
            weights_of(fit(Classifier, CALLBACKS[kind](), **settings)),
        )


def test_half_precision_with_a_scaler_trains() -> None:
    done = fit(
        Classifier, BatchSelection(Loss(), First(), keep=4), LossReweighting(DynamicLoss()), precision="16-mixed", **GPU
    )
    assert all(value.isfinite().all() for value in weights_of(done).values())
