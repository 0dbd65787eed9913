"""Instructions with answers, from a file, as batches for the fine-tuning of a causal language model.

A row is a prompt, made of its instruction and input, followed by its answer and the end-of-text token. The labels are
the tokens themselves where the answer is, and -100 on the prompt and the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_select.app.data.instruction_file import read_instructions
from lightning_select.app.data.small_tasks import small_tasks
from lightning_select.app.data.tokenizer import load_tokenizer
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.language_models import start_tokens

__all__ = ["Collate", "Instructions"]

_IGNORED = -100
"""The label that the loss of every model of transformers leaves out."""

Row = dict[str, list[int]]
"""``input_ids`` and ``labels`` of a row, of one length."""


class Instructions(LightningDataModule):
    """Batches ``{"input_ids", "attention_mask", "labels"}``, each as wide as its longest row.

    Args:
        path: A file with one JSON object per line, or one JSON list of them, gzipped or not; each object has an
            ``instruction``, maybe an ``input``, and an ``output`` (or ``response``). ``None`` takes the small tasks
            that come with this package.
        tokenizer: Folder or hub id of a tokenizer, that of the model; ``None`` takes the bytes of the text.
        batch_size: Rows of a training batch.
        max_length: Tokens of a row, above which its end is cut off. Rows that lose their whole answer are left out.
        prompt: How the prompt of a row without input is made; holds ``{instruction}``.
        prompt_with_input: How that of a row with input is made; holds ``{instruction}`` and ``{input}``.
        held_out: Share of the rows to validate on.
        padding_side: ``"right"`` or ``"left"``.
        seed: Seed of the split.
        num_workers: Worker processes of the training loader.
        sampler: Called with the training rows, makes the sampler of the training loader; ``None`` shuffles them.

    Raises:
        ArgumentError: A value is out of range.
        ConfigurationError: transformers is not installed.
    """

    def __init__(
        self,
        path: str | None = None,
        tokenizer: str | None = None,
        batch_size: int = 32,
        max_length: int = 256,
        prompt: str = "{instruction}\n\nAnswer:\n",
        prompt_with_input: str = "{instruction}\n\n{input}\n\nAnswer:\n",
        held_out: float = 0.1,
        padding_side: str = "right",
        seed: int = 0,
        num_workers: int = 0,
        sampler: Callable[[Dataset[Any]], Sampler[int]] | None = None,
    ) -> None:
        super().__init__()
        _check_count("batch_size", batch_size, 1)
        _check_count("max_length", max_length, 2)
        _check_template("prompt", prompt, {"instruction"})
        _check_template("prompt_with_input", prompt_with_input, {"instruction", "input"})
        if isinstance(held_out, bool) or not isinstance(held_out, float) or not 0 < held_out < 1:
            raise ArgumentError(f"Instructions.held_out must be a float in (0, 1), got {held_out!r}.")
        if padding_side not in ("right", "left"):
            raise ArgumentError(f"Instructions.padding_side must be right or left, got {padding_side!r}.")
        self.path = path
        self.batch_size = batch_size
        self.max_length = max_length
        self.prompt = prompt
        self.prompt_with_input = prompt_with_input
        self.held_out = held_out
        self.seed = seed
        self.num_workers = num_workers
        self.sampler = sampler
        self.tokenizer = load_tokenizer(tokenizer)
        self._collate = Collate(_pad_token(self.tokenizer), padding_side)
        self._parts: dict[str, _Rows] = {}

    def setup(self, stage: str) -> None:
        """Read, tokenize and split.

        Raises:
            ConfigurationError: The file cannot be used, or too few rows are left.
        """
        if self._parts:
            return
        asked = small_tasks() if self.path is None else read_instructions(self.path)
        encoded = self._encode(asked)
        rows = [row for row in encoded if any(label != _IGNORED for label in row["labels"])]
        if len(rows) < 2:
            raise ConfigurationError(
                f"data.path must hold at least 2 rows whose answers begin within data.max_length={self.max_length} "
                f"tokens, got {len(rows)} of {len(asked)}."
            )
        if len(rows) < len(asked):
            rank_zero_info(
                f"Instructions leaves out {len(asked) - len(rows)} of {len(asked)} rows, whose answers begin after "
                f"max_length={self.max_length} tokens."
            )
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed)).tolist()
        held_out = min(max(1, round(self.held_out * len(rows))), len(rows) - 1)
        self._parts = {
            "val": _Rows([rows[row] for row in order[:held_out]]),
            "train": _Rows([rows[row] for row in order[held_out:]]),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, in random order or as the sampler draws them."""
        rows = self._parts["train"]
        order: dict[str, Any] = {"shuffle": True} if self.sampler is None else {"sampler": self.sampler(rows)}
        whole = len(rows) >= self.batch_size  # a smaller last batch is left out, unless it is the only one
        return self._loader("train", drop_last=whole, num_workers=self.num_workers, **order)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the held-out part."""
        return self._loader("val")

    def _loader(self, part: str, **kwargs: Any) -> DataLoader[Any]:
        return DataLoader(self._parts[part], self.batch_size, collate_fn=self._collate, **kwargs)

    def _encode(self, asked: Sequence[dict[str, str]]) -> list[Row]:
        """Tokens and labels of every row."""
        prompts = [(self.prompt_with_input if row["input"] else self.prompt).format(**row) for row in asked]
        answers = [row["output"] for row in asked]
        start = start_tokens(self.tokenizer)
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        rows: list[Row] = []
        for prompt, answer in zip(self._tokens(prompts), self._tokens(answers), strict=True):
            ids = [*start, *prompt, *answer, *end][: self.max_length]
            labels = [_IGNORED] * (len(start) + len(prompt)) + [*answer, *end]
            rows.append({"input_ids": ids, "labels": labels[: self.max_length]})
        return rows

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


@dataclass(frozen=True)
class Collate:
    """Rows of different lengths to one batch, as wide as the longest of them.

    Attributes:
        pad: The token that fills up a row; the attention mask is zero on it.
        side: Where it is put, ``"right"`` or ``"left"``.
    """

    pad: int
    side: str = "right"

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The batch."""
        masks = [[1] * len(row["input_ids"]) for row in rows]
        return {
            "input_ids": self._stack([row["input_ids"] for row in rows], self.pad),
            "attention_mask": self._stack(masks, 0),
            "labels": self._stack([row["labels"] for row in rows], _IGNORED),
        }

    def _stack(self, rows: Sequence[list[int]], value: int) -> Tensor:
        width = max(len(row) for row in rows)
        filled = [[value] * (width - len(row)) for row in rows]
        pairs = zip(rows, filled, strict=True)
        return torch.tensor([fill + row if self.side == "left" else row + fill for row, fill in pairs])


class _Rows(Dataset[Row]):
    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Row:
        return self._rows[row]


def _pad_token(tokenizer: Any) -> int:
    """Any token will do, because the mask and the labels leave it out; many models have none for padding."""
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"Instructions.{name} must be a whole number of at least {least}, got {value!r}.")


def _check_template(name: str, template: Any, fields: set[str]) -> None:
    wanted = " and ".join(f"{{{field}}}" for field in sorted(fields, reverse=True))
    told = f"Instructions.{name} must be a text that holds {wanted} (a brace of the text is doubled), got {template!r}."
    try:
        found = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except (TypeError, ValueError) as error:
        raise ArgumentError(told) from error
    if found != fields:
        raise ArgumentError(told)
