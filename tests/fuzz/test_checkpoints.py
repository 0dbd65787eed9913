"""Damaged states of samplers and callbacks: refused in our words, or of no harm to the steps that follow."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_select import BatchSelection, LossReweighting, SamplerFeedback, SelectionReport
from lightning_select.errors import SelectionError
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.loss import Loss
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.importance import Importance
from lightning_select.signals.holdout import Holdout
from tests.fitting import SAFELY, loader, trainer
from tests.fuzz.budget import fuzz
from tests.fuzz.damage import damaged, in_bounds
from tests.modules import Classifier
from tests.test_every_sampler import NAMES, make, passed_on, train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what this process holds")

ROWS = 48


@functools.cache
def state_of(name: str) -> Any:
    sampler = make(name)
    train(sampler, 5)
    return passed_on(sampler.state_dict())


@st.composite
def samplers(draw: Any) -> tuple[str, Any]:
    name = draw(st.sampled_from(NAMES))
    return name, draw(damaged(state_of(name)))


@given(samplers())
@fuzz(0.08, quick=300)
def test_a_damaged_sampler_is_refused_or_draws(case: tuple[str, Any]) -> None:
    name, state = case
    sampler = make(name)
    with in_bounds(), contextlib.suppress(SelectionError):
        sampler.load_state_dict(state)
        drawn = train(sampler, 12)
        assert {row for batch in drawn for row in batch} <= set(range(sampler.rows))
        sampler.metrics()
        torch.save(sampler.state_dict(), io.BytesIO())


def callbacks(folder: str) -> list[Any]:
    """Those that keep something, stacked."""
    return [
        SamplerFeedback(),
        BatchSelection(Loss(), Diverse(capacity=8), keep=6, name="diverse"),
        BatchSelection(Loss(), Importance(threshold=0.0), keep=5, name="importance"),
        BatchSelection(ReducibleLoss(Holdout(epochs=1)), Importance(), keep=4, name="holdout"),
        LossReweighting(lambda losses: losses.exp()),
        SelectionReport(folder),
    ]


def data() -> Any:
    return loader(rows=ROWS, sampler=LossProportional(ROWS), shuffle=False)


@functools.cache
def checkpoint() -> Any:
    """What a fit with all of them saves."""
    with tempfile.TemporaryDirectory() as folder:
        keep = ModelCheckpoint(folder, every_n_train_steps=4, save_last=True)
        torch.manual_seed(0)
        fit = trainer(*callbacks(folder), keep, max_epochs=-1, max_steps=4, enable_checkpointing=True)
        fit.fit(Classifier(), data())
        return torch.load(Path(folder) / "last.ckpt", weights_only=True)


@st.composite
def checkpoints(draw: Any) -> Any:
    whole = checkpoint()
    key = draw(st.sampled_from([key for key in whole["callbacks"] if "ModelCheckpoint" not in key]))
    state = draw(damaged(whole["callbacks"][key]).filter(lambda one: not isinstance(one, torch.Tensor)))
    return {**whole, "callbacks": {**whole["callbacks"], key: state}}  # of a tensor Lightning asks whether it is true


@given(checkpoints())
@fuzz(0.03, quick=60)
def test_a_fit_with_a_damaged_checkpoint_is_refused_or_goes_on(state: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.ckpt"
        torch.save(state, path)
        with in_bounds(60.0), contextlib.suppress(SelectionError):
            fit = trainer(*callbacks(folder), max_epochs=-1, max_steps=6)
            fit.fit(Classifier(), data(), ckpt_path=path, **SAFELY)
            assert fit.global_step == 6


def test_the_checkpoint_itself_goes_on() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.ckpt"
        torch.save(checkpoint(), path)
        fit = trainer(*callbacks(folder), max_epochs=-1, max_steps=6)
        fit.fit(Classifier(), data(), ckpt_path=path, **SAFELY)
        assert fit.global_step == 6
