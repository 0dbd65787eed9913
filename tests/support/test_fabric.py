"""A loop of Fabric has no Trainer for callbacks to be in; what works there is what works in any loop of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric

from lightning_select.batch import take_rows
from lightning_select.protocols import SelectionContext
from lightning_select.scores.loss import Loss
from lightning_select.seeding import generator_at
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.base import Signals
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.support.columns import SAMPLERS, Column
from tests.support.fabric_loop import parts, train
from tests.support.modules import ROWS

HERE = Path(__file__).parents[2]


@pytest.mark.parametrize("column", SAMPLERS, ids=lambda column: column.name)
def test_a_sampler_is_fed_by_hand(column: Column) -> None:
    sampler: Any = column.sampler(ROWS)  # type: ignore[misc]
    seen: list[list[int]] = []
    train(Fabric(accelerator="cpu", devices=1), sampler, seen)
    assert sampler.updates == len(seen) > 0
    assert {row for ids in seen for row in ids} <= set(range(ROWS))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_ranks_of_fabric_share_the_draws(tmp_path: Path) -> None:
    """Begun by a process of its own: one that has trained much holds locks that a forked child would wait for."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "tests.support.fabric_loop", str(tmp_path)]
    subprocess.run(command, cwd=HERE, env=environment, timeout=200, check=True, capture_output=True)
    (mine, fed), (yours, told) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert fed == told == len(mine) == len(yours)
    rows = [row for ids in mine + yours for row in ids]
    assert sorted(rows) == list(range(ROWS)), "two rounds of half the rows each, without an overlap"


def test_scores_selectors_and_weightings_are_functions() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer, loader = parts(fabric)
    for step, batch in enumerate(loader):
        with torch.no_grad():
            losses = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        signals = Signals(loss=losses)
        context = SelectionContext(signals, generator_at(fabric.device, 0, step), {}, step)
        batch = take_rows(batch, TopK()(Loss()(signals), 4, context).index)
        assert len(batch["x"]) == 4
        losses = F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")
        weights = DynamicLoss()(losses.detach())
        fabric.backward((losses * weights).mean())
        optimizer.step()
        optimizer.zero_grad()
    assert all(value.isfinite().all() for value in model.state_dict().values())
