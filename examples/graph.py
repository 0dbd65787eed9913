"""Graphs as padded matrices in a dict, with a dense network: does a graph hold a triangle?

Prints test accuracy and steps, per seed, for uniform training, for InfoBatch, which skips half of the rows with a loss
below the mean and weighs the other half up, and for uniform training that stops after as many steps: the rival that any
method which saves steps has to beat. Batches of torch_geometric work as well. Needs nothing beside lightning-select.
"""

import argparse
import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, default_collate

from lightning_select.samplers.info_batch import InfoBatch

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
NODES, WIDTH = 12, 32


def graphs(rows: int, seed: int) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    nodes = torch.arange(NODES) < torch.randint(6, NODES + 1, (rows, 1), generator=draw)
    edges = (torch.rand(rows, NODES, NODES, generator=draw) < 0.16).triu(diagonal=1)
    adjacency = ((edges | edges.mT) & nodes[:, None] & nodes[:, :, None]).float()
    label = (adjacency @ adjacency @ adjacency).diagonal(dim1=1, dim2=2).sum(dim=1) > 0
    named = {"adjacency": adjacency, "nodes": nodes.float(), "label": label.long()}
    return [{name: values[row] for name, values in named.items()} for row in range(rows)]


class GraphNetwork(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(NODES, WIDTH))
        self.rounds = nn.ModuleList(nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.start * batch["nodes"][:, :, None]
        for layer in self.rounds:
            hidden = layer(torch.cat([hidden, batch["adjacency"] @ hidden], dim=2))
        return self.head((hidden * batch["nodes"][:, :, None]).sum(dim=1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def fitted(seed: int, epochs: int, steps: int = -1, sampler: Sampler[int] | None = None) -> tuple[float, int]:
    seed_everything(seed, verbose=False)
    module, loader = GraphNetwork(), DataLoader(graphs(2000, seed), 64, shuffle=sampler is None, sampler=sampler)
    lengths = {"max_epochs": epochs, "max_steps": steps, "reload_dataloaders_every_n_epochs": 1}
    (trainer := Trainer(accelerator="cpu", **lengths, **QUIET)).fit(module, loader)
    test = default_collate(graphs(2000, seed + 1000))
    return (module(test).argmax(dim=1) == test["label"]).float().mean().item(), trainer.global_step


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    for seed in range(chosen.seeds):
        full, most = fitted(seed, chosen.epochs)
        skipping, fewer = fitted(seed, chosen.epochs, sampler=InfoBatch(2000, mode="shrinking"))
        equal, _ = fitted(seed, chosen.epochs, steps=fewer)
        print(f"seed {seed}, test accuracy: uniform {full:.3f} in {most} steps", end="; ")
        print(f"InfoBatch {skipping:.3f} in {fewer}; uniform {equal:.3f} in as many")


if __name__ == "__main__":
    main()
