"""One of two ranks is killed: the other ends with an error, soon, and nobody is left."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting, SelectionReport
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.faults.test_in_process import TEN
from tests.fitting import Rows, trainer
from tests.modules import Classifier

ROWS, SIZE, LONG = 64, 8, 60.0
MOMENTS = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_train_batch_end")


class Dies(pl.Callback):
    """Kills one rank at a moment of a step."""

    def __init__(self, rank: int, step: int, moment: str) -> None:
        self.rank, self.step = rank, step
        setattr(self, moment, self._die)

    def _die(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def _fit(folder: Path, dies: Dies, **settings: Any) -> None:
    torch.set_num_threads(1)
    callbacks = [
        BatchSelection(Loss(), TopK(), keep=0.5),
        LossReweighting(lambda losses: losses),
        SelectionReport(folder=folder),
    ]
    fitting = trainer(*callbacks, dies, max_epochs=50, **settings)
    fitting.fit(Classifier(), DataLoader(Rows(rows=ROWS), SIZE, sampler=LossProportional(ROWS)))


def start(folder: Path, dies: Dies, environment: dict[str, str], **settings: Any) -> int:
    """A process, with the processes that it starts in one group."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            os.environ.update(environment)
            _fit(folder, dies, **settings)
            code = 0
        except BaseException:
            with (folder / f"error{environment.get('RANK', '')}.txt").open("w") as file:
                file.write(traceback.format_exc())
            code = 3
        finally:
            os._exit(code)
    return process


def ended(processes: list[int]) -> dict[int, int]:
    """Exit codes of those that ended in time; the others are ended by us."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + LONG
    while len(codes) < len(processes) and time.monotonic() < deadline:
        for process in set(processes) - codes.keys():
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    for process in set(processes) - codes.keys():
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return codes


def is_empty(group: int) -> bool:
    """Is nobody of this process group alive?"""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def planned(seed: int) -> Dies:
    draw = random.Random(seed)
    return Dies(draw.randint(0, 1), draw.randint(1, 30), draw.choice(MOMENTS))


@pytest.mark.parametrize("seed", TEN)
def test_ranks_that_lightning_forked(seed: int, tmp_path: Path) -> None:
    parent = start(tmp_path, planned(seed), {}, devices=2, strategy="ddp_fork")
    assert ended([parent]) == {parent: 3}
    error = (tmp_path / "error.txt").read_text()
    if torch.version.cuda is not None and "avoid CUDA initialization in the main process" in error:
        pytest.skip("a test before this one has asked torch for CUDA devices, and Lightning forks no such process")
    assert "ProcessExitedException" in error
    assert is_empty(parent)


@pytest.mark.parametrize("seed", TEN)
def test_ranks_that_were_launched_one_by_one(seed: int, tmp_path: Path) -> None:
    """As torchrun does it: there is no parent that would see to the others."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"TORCHELASTIC_RUN_ID": "faults", "GROUP_RANK": "0"}
    dies = planned(seed)
    ranks = [
        start(tmp_path, dies, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, devices=2, strategy="ddp")
        for rank in range(2)
    ]
    codes = ended(ranks)
    assert codes == {ranks[dies.rank]: -signal.SIGKILL, ranks[1 - dies.rank]: 3}
    told = (tmp_path / f"error{1 - dies.rank}.txt").read_text()
    assert "RuntimeError" in told or "DistBackendError" in told or "DistNetworkError" in told
    assert all(is_empty(rank) for rank in ranks)
