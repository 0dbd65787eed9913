from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_select.app import main
from tests.app import tiny

TINY = (
    "model._target_=tests.app.tiny.Module",
    "data._target_=tests.app.tiny.Data",
    "+data.batch_size=8",
    "trainer=cpu",
    "trainer.max_epochs=-1",
    "trainer.max_steps=6",
    "trainer.val_check_interval=2",
    "trainer.check_val_every_n_epoch=null",
    "trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
    "+trainer.logger=false",
    "+trainer.enable_checkpointing=false",
    "threads=1",
    "compare.reports=0",  # the tests of reports ask for them
)


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the application in this process; errors come out as they are raised."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # so that what the application sets is unset afterwards
    tiny.ROWS_SEEN.clear()
    tiny.NOTES.clear()
    tiny.SAMPLERS.clear()
    tiny.LENGTHS.clear()

    def run(*arguments: str, folder: str = "out") -> Path:
        quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none", f"hydra.run.dir={tmp_path / folder}")
        main([*arguments, *quiet])
        return tmp_path / folder

    yield run
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def launch_tiny(launch: Callable[..., Path]) -> Callable[..., Path]:
    """The same on the module and the data of `tests.app.tiny`."""
    return lambda *arguments, **kwargs: launch(*TINY, *arguments, **kwargs)


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))
