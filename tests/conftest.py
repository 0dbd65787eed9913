from __future__ import annotations

import importlib
import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.reports.browsing import missing

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_configure() -> None:
    """Workers share the cores. With as many threads in each as there are cores, all of it takes twice as long."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line that nobody overlooks where pages were not opened in a browser."""
    if missing():
        terminalreporter.write_line(f"BROWSER TESTS SKIPPED: {missing()}", yellow=True, bold=True)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Each test starts from the same random state and leaves none behind."""
    state = torch.get_rng_state(), random.getstate()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state[0])
    random.setstate(state[1])


@pytest.fixture(autouse=True)
def quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a file of the benchmarks by its name, as the scripts do among themselves, and forget it afterwards."""
    before = set(sys.modules)
    folder = Path(__file__).parents[1] / "examples" / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (folder / f"{name}.py").exists():
            del sys.modules[name]
