from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of every kind of fit, the weights at its end in a fresh process, and how often each place was reached."""
    file = tmp_path_factory.mktemp("reference") / "known.pt"
    subprocess.run(
        [sys.executable, "-m", "tests.faults.reference", str(file)], cwd=ROOT, check=True, capture_output=True
    )
    return torch.load(file, weights_only=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _ctrl_c_works() -> Iterator[None]:
    """Lightning ignores further interrupts while it shuts down, and for ever where that is early in a fit."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(autouse=True, scope="module")
def _light_collector() -> Iterator[None]:
    """What was there before these tests is not looked at when garbage is collected, which they do often."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
