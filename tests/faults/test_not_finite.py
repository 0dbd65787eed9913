"""Losses and weights that are not finite: what is told, and that it stays with what plain training would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_select.errors import NonFiniteScoreError
from tests.faults.scenes import SETUPS, STEPS, Module, Scene
from tests.faults.test_in_process import check_after, go_wrong
from tests.faults.traces import picture, process

FROM = 3
"""Step from which on all is lost."""


class Odd(Module):
    """Its losses, of some rows or of all, are not finite, or its weights are not, from some step on."""

    where = ""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.where in ("nan", "inf"):
            return loss + torch.where(batch[1] == 0, float(self.where), 0.0).mean()
        return loss * float("nan") if self.where == "all" and self.trainer.global_step >= FROM else loss

    def on_before_optimizer_step(self, optimizer):
        if self.where == "weights" and self.trainer.global_step == FROM - 1:
            with torch.no_grad():
                self.net[0].weight.mul_(float("nan"))


def scene(kind: str, where: str, folder: Path) -> Scene:
    made = Scene(kind, folder)
    made.module.__class__ = type("Odd", (Odd,), {"where": where})
    return made


JUDGING = [kind for kind in SETUPS if {"selection", "reweighting"} & set(SETUPS[kind][0])]
LISTENING = [kind for kind in SETUPS if kind not in JUDGING]


@pytest.mark.parametrize("where", ["all", "weights"])
@pytest.mark.parametrize("kind", JUDGING)
def test_no_row_is_finite(kind: str, where: str, known: Any, tmp_path: Path) -> None:
    """Whoever judges rows says so at the step where it shows, at the cadence of the loggers."""
    made = scene(kind, where, tmp_path / "report")
    before, here, start = picture(made.module, made.trainer, made.loader), process(), made.weights
    go_wrong(made, NonFiniteScoreError, "got 0")
    assert made.trainer.global_step == FROM + 1
    made.module.__class__ = Module
    made.module.load_state_dict(start)
    check_after(made, before | {"class of the module": sorted(vars(Module))}, here, known, tmp_path / "fresh")


@pytest.mark.parametrize("where", ["all", "weights"])
@pytest.mark.parametrize("kind", LISTENING)
def test_no_row_is_finite_and_nobody_judges(kind: str, where: str, tmp_path: Path) -> None:
    """A report and a sampler only listen: training goes on as it would without them."""
    made, plain = scene(kind, where, tmp_path), scene("nothing of ours", where, tmp_path)
    made.fit()
    plain.fit()
    assert made.trainer.global_step == STEPS
    weights = [{name: value.isfinite().all() for name, value in one.weights.items()} for one in (made, plain)]
    assert weights[0] == weights[1]
    drawn = list(made.loader.sampler)
    assert all(0 <= row < len(made.data) for row in drawn)


class Some(Module):
    """The loss of some rows is not finite, those of the others are what they are."""

    bad = float("nan")

    def training_step(self, batch, batch_idx):
        losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return (losses + torch.where(batch[0][:, 0] > 0.8, self.bad, 0.0)).mean()


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("kind", [kind for kind in SETUPS if SETUPS[kind][1] != "beta_posterior"])
def test_some_rows_are_not_finite(kind: str, bad: str, tmp_path: Path) -> None:
    made = Scene(kind, tmp_path)
    made.module.__class__ = type("Some", (Some,), {"bad": float(bad)})
    for one in made.callbacks:
        vars(one).update({"keep": 2} if hasattr(one, "keep") else {})
    made.fit()
    assert made.trainer.global_step == STEPS
    assert all(value.isfinite().all() for value in made.weights.values())
    told = made.trainer.callback_metrics
    if "reweighting" in SETUPS[kind][0] and "selection" not in SETUPS[kind][0]:
        assert told["loss_reweighting/not_finite"] >= 0
    assert all(0 <= row < len(made.data) for row in made.loader.sampler)
