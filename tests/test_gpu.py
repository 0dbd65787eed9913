"""What only a GPU shows; run with ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F

from lightning_select import BatchSelection, LossReweighting
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
from tests.fitting import First, fit, loader, same, weights_of
from tests.modules import Base, Classifier

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
