from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


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
