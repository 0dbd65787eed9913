"""A run that is killed at any moment, and goes on from its last checkpoint, is the run that was not."""

from __future__ import annotations

import os
import random
import signal
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.rollouts.balanced import Balanced
from lightning_select.rollouts.refill import Refill
from lightning_select.rollouts.screening import Screening
from lightning_select.samplers.beta_posterior import BetaPosterior
from tests.rollouts.toy import loader, module, trainer

EPOCHS = 6


class Kill(pl.Callback):
    """Kills this process in a round: before its batch is tried, or after."""

    def __init__(self, rounds: int, moment: str) -> None:
        self.rounds = rounds
        setattr(self, moment, self._strike)

    def _strike(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if pl_module.counters.rounds >= self.rounds:
            os.kill(os.getpid(), signal.SIGKILL)


class Every(pl.Callback):
    """A checkpoint after every other batch, in the middle of fillings too; the file is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if pl_module.counters.rounds % 2 == 0:
            trainer.save_checkpoint(self.folder / "new.ckpt")
            os.replace(self.folder / "new.ckpt", self.folder / "last.ckpt")


def fit(folder: Path, kill: tuple[int, str] | None) -> None:
    torch.set_num_threads(1)
    last = folder / "last.ckpt"
    settings = {"attempts": 6, "group_filter": Balanced(), "screening": Screening(3), "kl": 0.1}
    policy = module(**settings, refill=Refill(groups=3, surplus="carry"), inner_epochs=2)
    killers = [] if kill is None else [Kill(*kill)]
    fitting = trainer(
        SamplerFeedback(),
        *killers,
        Every(folder),
        ModelCheckpoint(folder),
        max_epochs=EPOCHS,
        enable_checkpointing=True,
    )
    fitting.fit(policy, loader(sampler=BetaPosterior(16)), ckpt_path=last if last.exists() else None)
    torch.save({**policy.state_dict(), **policy.counters.state_dict()}, folder / "end.pt")


def run(folder: Path, kill: tuple[int, str] | None = None) -> int:
    """Fit in a process of its own; the exit code."""
    folder.mkdir(exist_ok=True)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            fit(folder, kill)
            code = 0
        except BaseException:
            (folder / "error.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_and_resumed(kills: int, tmp_path: Path) -> None:
    assert run(tmp_path / "whole") == 0
    whole = torch.load(tmp_path / "whole" / "end.pt", weights_only=True)
    draw = random.Random(kills)
    for number in range(kills):
        folder = tmp_path / str(number)
        moment = draw.choice(["on_train_batch_start", "on_train_batch_end", "on_before_optimizer_step"])
        kill = (draw.randrange(1, EPOCHS * 4 - 2), moment)
        assert run(folder, kill) == -signal.SIGKILL, kill
        assert run(folder) == 0, (folder / "error.txt").read_text()
        found = torch.load(folder / "end.pt", weights_only=True)
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), (kill, name)
