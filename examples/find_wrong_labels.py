"""Find wrong labels: one line added to ordinary training writes a page about the rows of the dataset.

A fifth of the labels of scikit-learn's digits are changed. Prints how many of the rows that the report calls likely
mislabelled are, and how many of all wrong ones it found; --folder keeps the page. Needs: "lightning-select[demo]"
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_select import SelectionReport
from lightning_select.reports.likely_mislabelled import likely_mislabelled

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
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def changed_digits(share: float) -> tuple[TensorDataset, Tensor]:
    """Digits, and which of them have another label than they should."""
    pixels, labels = load_digits(return_X_y=True)
    images, right = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    draw = torch.Generator().manual_seed(0)
    wrong = torch.rand(right.shape, generator=draw) < share
    others = (right + torch.randint(1, 10, right.shape, generator=draw)) % 10
    return TensorDataset(images, torch.where(wrong, others, right)), wrong


def audit(folder: str, epochs: int) -> str:
    data, wrong = changed_digits(0.2)
    seed_everything(0, verbose=False)
    report = SelectionReport(folder, title="Digits with wrong labels", class_names=[f"digit {n}" for n in range(10)])
    done = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[report], **QUIET)
    done.fit(Digits(), DataLoader(data, 64, shuffle=True))
    suspects = likely_mislabelled(report.noting.record.table())
    named = wrong[torch.from_numpy(suspects.ids[: suspects.likely])]
    found = f"{int(named.sum())} of the {int(wrong.sum())} wrong labels are among them"
    return f"{suspects.likely} of {len(wrong)} rows are called likely mislabelled; {found}. The page: {report.file}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--folder", help="where to write report.html and rows.csv; a folder that is removed by default")
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as removed:
        print(audit(chosen.folder or removed, chosen.epochs))


if __name__ == "__main__":
    main()
