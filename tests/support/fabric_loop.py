"""A loop of Fabric that tells a sampler by hand; ``python -m tests.support.fabric_loop FOLDER``: on two ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from lightning_select import distributed
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.progress import Progress
from tests.support.columns import BY_NAME
from tests.support.modules import ROWS, SIZE, Net, Rows


def parts(fabric: Fabric, sampler: Any = None) -> tuple[Any, Any, Any]:
    torch.manual_seed(1)
    net = Net()
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.1))
    return model, optimizer, fabric.setup_dataloaders(DataLoader(Rows(), SIZE, sampler=sampler))


def whole(fabric: Fabric, values: torch.Tensor) -> torch.Tensor:
    """Those of all ranks."""
    return fabric.all_gather(values).flatten(0, 1) if fabric.world_size > 1 else values


def train(fabric: Fabric, sampler: OnlineSampler, seen: list[list[int]]) -> None:
    """Two epochs, in which all ranks are told of each other's rows."""
    model, optimizer, loader = parts(fabric, sampler)
    sampler.progress = Progress(step=0, total_steps=8, max_epochs=2)  # for what depends on the length of training
    assert loader.sampler is sampler, "Fabric leaves it as it is"
    for _ in range(2):
        for batch in loader:
            ids = batch["index"]
            sampler.arrived(ids)
            z = model(batch["x"])
            losses = F.cross_entropy(z, batch["y"], reduction="none")
            fabric.backward(losses.mean())
            optimizer.step()
            optimizer.zero_grad()
            right = (z.argmax(dim=1) == batch["y"]).float()
            told = {"loss": losses.detach(), "reward": torch.stack([right, torch.ones_like(right)], dim=1)}
            everyone = {name: whole(fabric, value) for name, value in told.items()}
            sampler.observe(whole(fabric, ids), everyone)
            seen.append(ids.tolist())


def one_rank(fabric: Fabric, sampler: OnlineSampler, folder: Path) -> None:
    torch.set_num_threads(1)
    seen: list[list[int]] = []
    train(fabric, sampler, seen)
    (folder / f"{distributed.rank()}.json").write_text(json.dumps([seen, sampler.updates]))


if __name__ == "__main__":
    made: Any = BY_NAME["RepeatedRandom"].sampler
    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(one_rank, made(ROWS), Path(sys.argv[1]))
