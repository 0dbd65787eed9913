"""SIGKILL at any moment of a fit with callbacks, a report and a sampler: resumed, it ends as if nothing happened."""

from __future__ import annotations

import os
import random
import signal
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.faults.scenes import ROWS, SETUPS, STEPS, Fuses, Scene
from tests.faults.test_in_process import TEN
from tests.fitting import same

PLACES = (
    *("a scoring pass", "the training pass", "a score", "a selector", "a weighting", "a draw", "backward"),
    *("optimizer.step", "on_train_batch_end of the first callback", "on_train_batch_end of the last callback"),
)
KINDS = [kind for kind in SETUPS if SETUPS[kind][1] and (SETUPS[kind][0])]
"""Those with a sampler of ours, which goes on amid an epoch."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, kind: str, fuses: Fuses) -> int:
    """Fit in a process of its own, from the latest checkpoint if there is one; the exit code."""
    folder.mkdir(exist_ok=True)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            _fit(folder, kind, fuses)
            code = 0
        except BaseException:
            (folder / "error.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _fit(folder: Path, kind: str, fuses: Fuses) -> None:
    last = folder / "last.ckpt"
    keep = ModelCheckpoint(folder, save_last=True, every_n_train_steps=2, save_top_k=0)
    scene = Scene(kind, folder / "report", fuses, settings={"enable_checkpointing": True, "more": (keep,)})
    scene.module.net[2].p = 0.0  # Lightning does not restore the generators of dropout
    scene.fit(ckpt_path=last if last.exists() else None)
    torch.save(scene.weights, folder / "end.pt")


def table(folder: Path) -> list[str]:
    file = folder / "report" / "rows.csv"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("seed", TEN)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed(kind: str, seed: int, known: Any, tmp_path: Path) -> None:
    draw = random.Random(f"{kind} {seed}")
    place = draw.choice([place for place in PLACES if known[kind]["calls"].get(place, 0) >= STEPS])
    at = draw.randint(1, known[kind]["calls"][place])
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, kind, Fuses()) == 0, (whole / "error.txt").read_text()
    assert run(folder, kind, Fuses(place, at, act=kill)) == -signal.SIGKILL, (place, at)
    assert not (folder / "end.pt").exists()
    assert run(folder, kind, Fuses()) == 0, (folder / "error.txt").read_text()
    ends = [torch.load(one / "end.pt", weights_only=True) for one in (folder, whole)]
    assert same(*ends), (place, at)
    assert table(folder) == table(whole)
    assert len(table(whole)) == (ROWS + 1 if "report" in SETUPS[kind][0] else 0)
