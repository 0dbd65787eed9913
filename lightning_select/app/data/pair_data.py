"""Preference pairs as batches for peer review: made-up features whose right order is known, or texts from a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_select.app.data.pair_text import PairCollate, swapped, tokenized
from lightning_select.app.data.tokenizer import load_tokenizer
from lightning_select.compat import rank_zero_warn
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.preferences.easy_first import EasyFirst
from lightning_select.preferences.made_up_pairs import made_up_pairs
from lightning_select.preferences.pair_draws import PairDraws
from lightning_select.preferences.pairs import read_pairs

__all__ = ["PairData"]

_TESTED = 2000
"""Made-up pairs to validate on, and as many to test on; their labels are right."""


class PairData(LightningDataModule):
    """Batches ``{"chosen", "rejected"}`` of pairs for both models in turn, and ``flipped`` where it is known.

    Made-up completions are tensors of features. Texts are ``{"input_ids", "attention_mask"}`` of the prompt and the
    completion, padded on the right to the longest of the batch.

    Args:
        path: A file with one JSON object per line, gzipped or not: ``prompt``, ``chosen``, ``rejected``, and maybe
            ``flipped``. ``None`` makes pairs up.
        tokenizer: Folder or hub id of a tokenizer, that of the model; ``None`` takes the bytes of the text.
        max_length: Tokens of prompt and completion, above which the start of the prompt is cut off.
        batch_size: Pairs of a training batch of one model.
        curriculum: Which pairs take part in an epoch; ``None``: all.
        pairs: How many pairs are made up.
        features: Their features.
        noise: Share of the training pairs that is swapped: of made-up ones, and of those of a file on top of what is
            wrong there already. Validation and test pairs stay as they are.
        held_out: Share of the pairs of a file to validate on, and as many to test on.
        seed: Seed of made-up pairs, of the split, of what is swapped, and of the order.
        num_workers: Worker processes of the training loader.

    Raises:
        ArgumentError: A value is out of range.
        ConfigurationError: transformers is needed and not installed.
    """

    def __init__(
        self,
        path: str | None = None,
        tokenizer: str | None = None,
        max_length: int = 512,
        batch_size: int = 64,
        curriculum: EasyFirst | None = None,
        pairs: int = 3000,
        features: int = 20,
        noise: int | float = 0.0,
        held_out: int | float = 0.1,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("max_length", max_length, 2),
            ("batch_size", batch_size, 1),
            ("pairs", pairs, 1),
            ("features", features, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ArgumentError(f"PairData.{name} must be a whole number of at least {least}, got {value!r}.")
        if not _is_share(noise) or not 0 <= noise <= 1:
            raise ArgumentError(f"PairData.noise must be a number in [0, 1], got {noise!r}.")
        if not _is_share(held_out) or not 0 < held_out < 0.5:
            raise ArgumentError(f"PairData.held_out must be a number in (0, 0.5), got {held_out!r}.")
        self.path, self.max_length, self.batch_size, self.curriculum = path, max_length, batch_size, curriculum
        self.pairs, self.features, self.noise, self.held_out = pairs, features, noise, held_out
        self.seed, self.num_workers = seed, num_workers
        self.tokenizer = None if path is None else load_tokenizer(tokenizer)
        self._parts: dict[str, Dataset[Any]] = {}

    def setup(self, stage: str) -> None:
        """Make or read the pairs, split and swap.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        if self._parts:
            return
        if self.path is not None:
            self._parts = self._read(self.path)
            return
        for place, (part, count, noise) in enumerate(
            (("train", self.pairs, self.noise), ("val", _TESTED, 0.0), ("test", _TESTED, 0.0))
        ):
            self._parts[part] = _Columns(made_up_pairs(count, self.features, noise, self.seed, place))

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches with ``batch_size`` pairs for each of the two models."""
        rows = self._parts["train"]
        order = PairDraws(rows, curriculum=self.curriculum, seed=self.seed)  # type: ignore[arg-type]
        return self._loader("train", 2 * self.batch_size, sampler=order, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the held-out part."""
        return self._loader("val", 4 * self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test part."""
        return self._loader("test", 4 * self.batch_size)

    def _loader(self, part: str, rows: int, **kwargs: Any) -> DataLoader[Any]:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if self.tokenizer is not None else ()
        pad = next((token for token in known if token is not None), 0)
        collate = _as_it_is if self.path is None else PairCollate(pad)
        return DataLoader(self._parts[part], rows, collate_fn=collate, **kwargs)

    def _read(self, path: str) -> dict[str, Dataset[Any]]:
        rows = tokenized(read_pairs(path), self.tokenizer, self.max_length)
        if len(rows) < 3:
            raise ConfigurationError(
                "data.path must hold at least 3 pairs whose completions differ within data.max_length="
                f"{self.max_length} tokens, one each to train, validate and test on, got {len(rows)} in {path}."
            )
        if self.noise > 0:
            rank_zero_warn(
                f"data.noise={self.noise:g} swaps that share of the training pairs of {path}. Set data.noise=0 to "
                "train on them as they are."
            )
        draw = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(rows), generator=draw).tolist()
        size = min(max(1, round(self.held_out * len(rows))), (len(rows) - 1) // 2)
        val, test, train = order[:size], order[size : 2 * size], [rows[place] for place in order[2 * size :]]
        return {
            "val": _Rows([rows[place] for place in val]),
            "test": _Rows([rows[place] for place in test]),
            "train": _Rows(swapped(train, self.noise, draw) if self.noise > 0 else train),
        }


class _Columns(Dataset[Any]):
    """Pairs in memory; a whole batch is taken at once, as DataLoader allows (``__getitems__``)."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["chosen"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: column[row] for name, column in self._columns.items()}

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        index = torch.tensor(rows)
        return {name: column[index] for name, column in self._columns.items()}


class _Rows(Dataset[Any]):
    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._rows[row]


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_it_is(batch: Any) -> Any:
    return batch
