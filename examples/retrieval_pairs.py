"""Retrieval with pairs that do not belong together: two towers, a contrastive loss, a fifth of the answers mixed up.

Prints recall at 1 among 500 clean test answers, per seed, for uniform training and for self-paced weights, which leave
out the fifth with the largest losses once the model knows something (here the share is known; --share tries others).
Rows of such a batch act on each other: weights act on the terms of the loss, and all rows stay negatives of the others.
"""

import argparse
import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_select import Anneal, LossReweighting
from lightning_select.weightings.self_paced import SelfPaced

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class TwoTowers(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, 32))
        self.answer = nn.Sequential(nn.Linear(60, 128), nn.ReLU(), nn.Linear(128, 32))

    def forward(self, queries: Tensor, answers: Tensor) -> Tensor:
        return F.normalize(self.query(queries), dim=-1) @ F.normalize(self.answer(answers), dim=-1).T

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(*batch) / 0.1, torch.arange(len(batch[0])))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def pairs(rows: int, wrong: float, seed: int) -> TensorDataset:
    """Two noisy views of a hidden topic; the answers of some rows are handed on to the next one of them."""
    world, draw = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    to_query, to_answer = torch.randn(8, 40, generator=world), torch.randn(8, 60, generator=world)
    topic = torch.randn(rows, 8, generator=draw)
    query = (topic @ to_query).tanh() + 0.3 * torch.randn(rows, 40, generator=draw)
    answer = (topic @ to_answer).tanh() + 0.3 * torch.randn(rows, 60, generator=draw)
    mixed = (torch.rand(rows, generator=draw) < wrong).nonzero()[:, 0]
    answer[mixed] = answer[mixed.roll(1)]
    return TensorDataset(query, answer)


def recall(seed: int, epochs: int, *callbacks: LossReweighting) -> float:
    seed_everything(seed, verbose=False)
    module, loader = TwoTowers(), DataLoader(pairs(2000, 0.2, seed), 64, shuffle=True, drop_last=True)
    Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **QUIET).fit(module, loader)
    with torch.inference_mode():
        nearest = module(*pairs(500, 0.0, seed + 1000)[:]).argmax(dim=1)
    return (nearest == torch.arange(500)).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.8, help="of the rows of a batch that count in the end")
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    for seed in range(chosen.seeds):
        paced = LossReweighting(SelfPaced(share=Anneal(begin=1.0, end=chosen.share, stop=0.3)))
        told = f"uniform {recall(seed, chosen.epochs):.3f}; self-paced {recall(seed, chosen.epochs, paced):.3f}"
        print(f"seed {seed}, recall at 1: {told}")


if __name__ == "__main__":
    main()
