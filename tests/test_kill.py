"""Law 2: a run that is killed by SIGKILL at any moment and resumed ends as the one that was not.

Every run is a process group of its own, forked from this one, so that a kill takes ranks and workers with it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.beta_posterior import BetaPosterior
from lightning_select.samplers.info_batch import InfoBatch
from lightning_select.samplers.loss_proportional import LossProportional
from tests.fitting import Rows, trainer
from tests.modules import Classifier

ROWS, SIZE, EPOCHS = 90, 8, 3
MOMENTS = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_train_batch_end")

SAMPLERS: dict[str, Callable[[], OnlineSampler]] = {
    "loss_proportional": lambda: LossProportional(ROWS, floor=0.05, beta=0.5),
    "beta_posterior": lambda: BetaPosterior(ROWS),
    "info_batch": lambda: InfoBatch(ROWS),
}


class Asks(Classifier):
    """Asks for the length of training where schedulers do, which makes Lightning set up its loaders early."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Journal(pl.Callback):
    """Writes down what each step of a rank was trained on, and with what weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        feedback = next(one for one in trainer.callbacks if isinstance(one, SamplerFeedback) and one.sampler)
        entry = [trainer.global_step, feedback.interception.ids.tolist(), feedback.interception.arrival.weights]
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")


class Kill(pl.Callback):
    """Kills the whole process group at a moment of a step."""

    def __init__(self, step: int, moment: str) -> None:
        self.step = step
        setattr(self, moment, self._strike)

    def _strike(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step >= self.step and trainer.is_global_zero:
            os.killpg(os.getpgid(0), signal.SIGKILL)


def run(
    folder: Path, sampler: str, workers: int, ranks: int, kill: tuple[int, str] | None = None, validated: bool = False
) -> int:
    """Fit in a process group of its own, from the latest checkpoint if there is one; the exit code."""
    folder.mkdir(exist_ok=True)
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        code = 1
        try:
            _fit(folder, sampler, workers, ranks, kill, validated)
            code = 0
        except BaseException:
            (folder / "error.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _fit(folder: Path, sampler: str, workers: int, ranks: int, kill: tuple[int, str] | None, validated: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    last = folder / "last.ckpt"
    # Those of validation hold the last batch of an epoch; every second validation is one.
    often: dict[str, Any] = {"every_n_train_steps": 3, "save_top_k": 0}
    keep = ModelCheckpoint(folder, save_last=True, **({"save_on_train_epoch_end": False} if validated else often))
    extra: dict[str, Any] = {"devices": ranks, "strategy": "ddp_fork"} if ranks > 1 else {}
    extra |= {"val_check_interval": 0.5, "num_sanity_val_steps": 0} if validated else {}
    killers = [] if kill is None else [Kill(*kill)]
    fitting = trainer(keep, Journal(folder), *killers, enable_checkpointing=True, max_epochs=EPOCHS, **extra)
    data = DataLoader(Rows(rows=ROWS), SIZE, sampler=SAMPLERS[sampler](), num_workers=workers)
    validation = DataLoader(Rows(rows=SIZE), SIZE) if validated else None
    fitting.fit(Asks(), data, validation, ckpt_path=last if last.exists() else None)


def journal(folder: Path, rank: int) -> dict[int, Any]:
    """By step; of a step that was done twice, the second time."""
    lines = (folder / f"{rank}.jsonl").read_text().splitlines()
    return {step: rest for step, *rest in map(json.loads, lines)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ten_kills(sampler: str, workers: int, ranks: int, tmp_path: Path) -> None:
    check_kills(sampler, workers, ranks, 10, tmp_path)


@pytest.mark.parametrize(("sampler", "workers", "ranks"), [("loss_proportional", 2, 1), ("info_batch", 0, 2)])
def test_one_kill(sampler: str, workers: int, ranks: int, tmp_path: Path) -> None:
    if ranks > 1 and torch.version.cuda and not torch.cuda.is_available():
        pytest.skip("a process forked by one that made a Trainer cannot fork ranks, with torch for CUDA and no GPU")
    check_kills(sampler, workers, ranks, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ten_kills_of_runs_that_save_when_they_validate(sampler: str, ranks: int, tmp_path: Path) -> None:
    check_kills(sampler, 2, ranks, 10, tmp_path, validated=True)


def test_a_kill_after_the_validation_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    steps = -(-ROWS // SIZE)
    check_kills("info_batch", 1, 1, 1, tmp_path, validated=True, kill=(steps + 2, "on_train_batch_end"))


def check_kills(
    sampler: str, workers: int, ranks: int, kills: int, tmp_path: Path, *, validated: bool = False, kill: Any = None
) -> None:
    whole, planned = tmp_path / "whole", kill
    assert run(whole, sampler, workers, ranks, validated=validated) == 0
    steps, draw = len(journal(whole, 0)), random.Random(f"{sampler} {workers} {ranks}")
    assert steps == EPOCHS * -(-ROWS // (SIZE * ranks))
    for number in range(kills):
        folder = tmp_path / str(number)
        kill = planned or (draw.randrange(1, steps), draw.choice(MOMENTS))
        assert run(folder, sampler, workers, ranks, kill, validated=validated) == -signal.SIGKILL, kill
        assert planned is None or (folder / "last.ckpt").exists(), "nothing was saved before"
        again = run(folder, sampler, workers, ranks, validated=validated)
        assert again == 0, (kill, (folder / "error.txt").read_text())
        for rank in range(ranks):
            assert journal(folder, rank) == journal(whole, rank), kill
            ends = [torch.load(place / f"{rank}.pt", weights_only=True) for place in (folder, whole)]
            assert same(*ends), kill
