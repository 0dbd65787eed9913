"""Real data for the demo: scikit-learn's handwritten digits, with a share of the training labels wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_select.errors import ArgumentError, ConfigurationError

__all__ = ["Digits"]

_CLASSES = 10
_HELD_OUT = 360
"""Images of the validation set, and as many of the test set; 1,077 are left to train on."""


class Digits(LightningDataModule):
    """Images of 8 x 8 pixels in [0, 1]; a batch is ``{"x", "y", "flipped"}``, the last one true where ``y`` is wrong.

    Args:
        batch_size: Rows of a training batch.
        noise: Share of the training labels changed to another class, each of the nine equally likely. Validation and
            test labels stay as they are.
        seed: Seed of the split and of the wrong labels.
        num_workers: Worker processes of the training loader.
        sampler: Called with the training rows, makes the sampler of the training loader; ``None`` shuffles them.

    Raises:
        ArgumentError: ``noise`` is not a share.
        ConfigurationError: scikit-learn is not installed.
    """

    def __init__(
        self,
        batch_size: int = 32,
        noise: float = 0.0,
        seed: int = 0,
        num_workers: int = 0,
        sampler: Callable[[Dataset[Any]], Sampler[int]] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= noise <= 1:
            raise ArgumentError(f"Digits.noise must be in [0, 1], got {noise}.")
        self.batch_size = batch_size
        self.noise = noise
        self.seed = seed
        self.num_workers = num_workers
        self.sampler = sampler
        self._parts: dict[str, _Rows] = {}

    def setup(self, stage: str) -> None:
        """Load, split, and change labels of the training part."""
        if self._parts:
            return
        images, labels = _load()
        draw = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(labels), generator=draw)
        bounds = {"val": order[:_HELD_OUT], "test": order[_HELD_OUT : 2 * _HELD_OUT], "train": order[2 * _HELD_OUT :]}
        for name, rows in bounds.items():
            noise = self.noise if name == "train" else 0.0
            self._parts[name] = _Rows(images[rows], *_flip(labels[rows], noise, draw))

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, in random order or as the sampler draws them."""
        rows = self._parts["train"]
        order: dict[str, Any] = {"shuffle": True} if self.sampler is None else {"sampler": self.sampler(rows)}
        return _loader(rows, self.batch_size, drop_last=True, num_workers=self.num_workers, **order)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation part in one batch."""
        return _loader(self._parts["val"], _HELD_OUT)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test part in one batch."""
        return _loader(self._parts["test"], _HELD_OUT)


class _Rows(Dataset[Any]):
    """Rows in memory; a whole batch is taken at once, as DataLoader allows (``__getitems__``)."""

    def __init__(self, images: Tensor, labels: Tensor, flipped: Tensor) -> None:
        self._columns = {"x": images, "y": labels, "flipped": flipped}

    def __len__(self) -> int:
        return len(self._columns["y"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: column[row] for name, column in self._columns.items()}

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        index = torch.tensor(rows)
        return {name: column[index] for name, column in self._columns.items()}


def _loader(rows: _Rows, batch_size: int, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(rows, batch_size=batch_size, collate_fn=_as_it_is, **kwargs)


def _as_it_is(batch: Any) -> Any:
    return batch


def _flip(labels: Tensor, noise: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Labels of which exactly ``noise`` were changed to another class, and which ones."""
    chosen = torch.randperm(len(labels), generator=draw)[: round(noise * len(labels))]
    shift = torch.randint(1, _CLASSES, (len(chosen),), generator=draw)
    noisy = labels.index_put((chosen,), (labels[chosen] + shift) % _CLASSES)
    return noisy, noisy != labels


def _load() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigurationError(
            'data=digits must have scikit-learn, got none installed: pip install "lightning-select[demo]". '
            "Or name data of your own: data._target_=my.DataModule"
        ) from error
    images, labels = load_digits(return_X_y=True)
    return torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels, dtype=torch.int64)
