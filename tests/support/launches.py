"""The rows of the matrix that take several processes, and the sharded strategies."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from tests.support import children
from tests.support.features import STRATEGIES, Feature
from tests.support.fits import Cell
from tests.support.modules import Net, Normed


class ShardedOnCPU(FSDPStrategy):
    """Lightning and torch ask for a GPU where they are told "fsdp" alone; gloo can do it too, if both are told so."""

    def _setup_model(self, model: Any) -> Any:
        return FullyShardedDataParallel(
            model, device_id=torch.device("cpu"), sharding_strategy=self.sharding_strategy, **self.kwargs
        )


class Sharding(Net):
    """Shards itself, as `ModelParallelStrategy` wants it."""

    def configure_model(self) -> None:
        mesh: Any = self.device_mesh
        if isinstance(self.head.weight, torch.distributed.tensor.DTensor):
            return
        fully_shard(self.net, mesh=mesh["data_parallel"])
        fully_shard(self.head, mesh=mesh["data_parallel"])


class ShardingAsAWhole(Sharding):
    """The way of Lightning's own examples: parts and then the root."""

    def configure_model(self) -> None:
        super().configure_model()
        fully_shard(self, mesh=self.device_mesh["data_parallel"])


class ShardingTheWhole(Net):
    """One unit, whose weights are whole only while the whole module runs."""

    def configure_model(self) -> None:
        if not isinstance(self.head.weight, torch.distributed.tensor.DTensor):
            fully_shard(self, mesh=self.device_mesh["data_parallel"])


def fit(cell: Cell) -> Any:
    """With a strategy that is made anew for each Trainer."""
    trainer = cell.trainer(strategy=MADE[cell.feature.name]())
    trainer.fit(cell.module, **cell.data())
    return trainer


FSDP_CPU, FSDP_PARTS = "FSDP", "FSDP, parts wrapped"
SHARD_PARTS, SHARD_ROOT, ROOT = "ModelParallel, parts", "ModelParallel, parts and whole", "ModelParallel, whole"
TENSORS = "ModelParallel, tensor parallel"
MADE = {
    FSDP_CPU: ShardedOnCPU,
    FSDP_PARTS: lambda: ShardedOnCPU(auto_wrap_policy={nn.Linear}),
    SHARD_PARTS: lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    SHARD_ROOT: lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    ROOT: lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    TENSORS: lambda: ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2),
}
DDP = {"devices": 2, "strategy": "ddp"}
LAUNCHED = (
    Feature("DDP, 2 processes of a script", STRATEGIES, DDP, launch="script"),
    Feature("DDP, 2 processes of torchrun", STRATEGIES, DDP, launch="torchrun", slow=True),
    Feature("DDP, 2 nodes", STRATEGIES, {"devices": 1, "num_nodes": 2, "strategy": "ddp"}, launch="nodes", slow=True),
    Feature(
        "DDP, 2 processes by fork",
        STRATEGIES,
        {"devices": 2, "strategy": "ddp_fork"},
        run=children.fit,
        launch="script",
        slow=True,
    ),
    Feature(
        "DDP, 2 processes by spawn",
        STRATEGIES,
        {"devices": 2, "strategy": "ddp_spawn"},
        run=children.fit,
        launch="script",
        slow=True,
    ),
    Feature("sync_batchnorm", STRATEGIES, DDP | {"sync_batchnorm": True}, module=Normed, launch="script", slow=True),
    Feature(FSDP_CPU, STRATEGIES, {"devices": 2}, run=fit, launch="script", slow=True),
    Feature(FSDP_PARTS, STRATEGIES, {"devices": 2}, run=fit, launch="script", slow=True),
    Feature(SHARD_PARTS, STRATEGIES, {"devices": 2}, module=Sharding, run=fit, launch="script", slow=True),
    Feature(SHARD_ROOT, STRATEGIES, {"devices": 2}, module=ShardingAsAWhole, run=fit, launch="script", slow=True),
    Feature(ROOT, STRATEGIES, {"devices": 2}, module=ShardingTheWhole, run=fit, launch="script", slow=True),
    Feature(TENSORS, STRATEGIES, {"devices": 2}, module=Sharding, run=fit, launch="script", slow=True),
)
BY_NAME = {feature.name: feature for feature in LAUNCHED}
