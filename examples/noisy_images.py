"""Images with wrong labels: a small CNN on scikit-learn's digits, where 30 % of the training labels were changed.

Prints test accuracy on clean labels, per seed, for uniform training and for RHO-LOSS, which trains a reference first
and then keeps a quarter of every batch. Uniform on all 64 rows a step learns the wrong labels by heart. RHO-LOSS does
not, but neither does uniform on 16, nor the one on 64 with --steps 300. Needs: pip install "lightning-select[demo]"
"""

import argparse
import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_select import BatchSelection, Holdout
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.top_k import TopK

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


class Digits(LightningModule):
    """An ordinary classifier of images of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        features = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1)
        self.net = nn.Sequential(*features, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def noisy_digits(share: float) -> tuple[TensorDataset, Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    x, x_test, y, y_test = train_test_split(pixels, torch.tensor(labels), test_size=0.3, random_state=0)
    draw = torch.Generator().manual_seed(0)
    shift = torch.randint(1, 10, y.shape, generator=draw) * (torch.rand(y.shape, generator=draw) < share)
    return TensorDataset(x, (y + shift) % 10), x_test, y_test


def accuracy(seed: int, steps: int, size: int, *callbacks: BatchSelection) -> float:
    train, x_test, y_test = noisy_digits(0.3)
    seed_everything(seed, verbose=False)
    module, loader = Digits(), DataLoader(train, size, shuffle=True, drop_last=True)
    Trainer(max_steps=steps, accelerator="cpu", callbacks=list(callbacks), **QUIET).fit(module, loader)
    with torch.inference_mode():
        return (module.net(x_test).argmax(dim=1) == y_test).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # so small a model is faster without company
    for seed in range(chosen.seeds):
        few, all_rows = accuracy(seed, chosen.steps, 16), accuracy(seed, chosen.steps, 64)
        kept = accuracy(seed, chosen.steps, 64, BatchSelection(ReducibleLoss(Holdout(epochs=10)), TopK(), keep=0.25))
        told = f"uniform, 16 rows a step {few:.3f}; uniform, 64 rows {all_rows:.3f}; RHO-LOSS, 16 of 64 rows {kept:.3f}"
        print(f"seed {seed}, test accuracy: {told}")


if __name__ == "__main__":
    main()
