"""Rows of a rare class: a small network on a made table where 3 % of the rows are positive.

Prints average precision and recall on a test set of the same mixture, per seed, for shuffled rows and for two samplers
that stand where ``shuffle=True`` stood, at the same cost. Recall alone would not say much, since a lower threshold
raises it too; average precision knows no threshold. Needs: pip install "lightning-select[demo]"
"""

import argparse
import logging
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import make_classification
from sklearn.metrics import average_precision_score, recall_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset, random_split

from lightning_select.samplers.group_balanced import GroupBalanced
from lightning_select.samplers.loss_proportional import LossProportional

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Table(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.net(batch[0])[:, 0], batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


METHODS: dict[str, Callable[[Dataset], Sampler[int] | None]] = {
    "shuffled": lambda train: None,
    "loss_proportional": lambda train: LossProportional(train, alpha=0.5),
    "group_balanced": lambda train: GroupBalanced(train, train[:][1].long(), balance="square_root"),
}


def scores(make: Callable[[Dataset], Sampler[int] | None], seed: int, epochs: int) -> tuple[float, float]:
    x, y = make_classification(
        6000, 20, n_informative=8, weights=[0.97], flip_y=0.005, class_sep=0.8, random_state=seed
    )
    data = TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    train, test = random_split(data, [0.5, 0.5], torch.Generator().manual_seed(seed))
    seed_everything(seed, verbose=False)
    module, sampler = Table(), make(train)
    loader = DataLoader(train, 64, shuffle=sampler is None, sampler=sampler)
    Trainer(max_epochs=epochs, accelerator="cpu", **QUIET).fit(module, loader)
    x_test, y_test = test[:]
    with torch.inference_mode():
        chance = module.net(x_test)[:, 0].sigmoid()
    return float(average_precision_score(y_test, chance)), float(recall_score(y_test, chance > 0.5))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    for name, make in METHODS.items():
        found = [scores(make, seed, chosen.epochs) for seed in range(chosen.seeds)]
        told = "; ".join(f"{precision:.3f} and {recall:.3f}" for precision, recall in found)
        print(f"{name:18} average precision and recall {told}")


if __name__ == "__main__":
    main()
