"""Prompts with answers: read from a file, and handed out in batches.

A row is a dict of two texts, ``prompt`` and ``answer``, and two whole numbers, ``category`` and ``id``; a batch is a
dict of two lists and two tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.json_rows import json_rows

__all__ = ["PromptRow", "PromptRows", "SamplerFactory", "check_count", "read_prompts", "training_loader"]


SamplerFactory = Callable[..., Sampler[int]]
"""Called with the training rows, makes the sampler of the training loader."""


class PromptRow(TypedDict):
    """A prompt and what is known about it."""

    prompt: str
    answer: str
    category: int
    id: int


class PromptRows(Dataset[PromptRow]):
    """Rows in memory; the ``id`` of a row is its position.

    Args:
        rows: Prompt, answer and category of each.
    """

    def __init__(self, rows: Iterable[tuple[str, str, int]]) -> None:
        self._rows = list(rows)

    @property
    def categories(self) -> list[int]:
        """The category of every row."""
        return [category for _, _, category in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> PromptRow:
        prompt, answer, category = self._rows[row]
        return {"prompt": prompt, "answer": answer, "category": category, "id": row}


def training_loader(
    rows: PromptRows, batch_size: int, num_workers: int, sampler: SamplerFactory | None
) -> DataLoader[PromptRow]:
    """Batches of rows, shuffled or as the sampler draws them; a smaller last one is left out unless it is the only one.

    An argument of the sampler that is the word ``category`` stands for the categories of the rows, so that samplers
    that must know them can be chosen by a config: ``sampler=category_bandit sampler.categories=category``.
    """
    order: dict[str, Any] = {"shuffle": True}
    if sampler is not None:
        given: Mapping[str, Any] = getattr(sampler, "keywords", {})
        named = {name: rows.categories for name, value in given.items() if value == "category"}
        order = {"sampler": sampler(rows, **named)}
    return DataLoader(rows, batch_size, drop_last=len(rows) >= batch_size, num_workers=num_workers, **order)


def read_prompts(path: str, *, prompt_key: str = "prompt", answer_key: str = "answer") -> list[tuple[str, str, str]]:
    """The rows of a file: where each stands (as in ``line 3 of train.jsonl``), its prompt and its answer.

    Args:
        path: JSON lines, or one JSON list of objects, whatever the file is called; gzipped or not.
        prompt_key: Field that holds the prompt, a text.
        answer_key: Field that holds the answer, a text or a number.

    Raises:
        ConfigurationError: There is no such file, or something in it is not as it must be; names the line.
    """
    rows = []
    for where, value in json_rows(path):
        if not isinstance(value, dict):
            raise ConfigurationError(f"{where} must be an object with fields, got {value!r:.60}.")
        prompt = _field(value, prompt_key, where, (str,), "text")
        rows.append((where, prompt, _field(value, answer_key, where, (str, int, float), "text or a number")))
    if not rows:
        raise ConfigurationError(f"data.path must hold at least one row, got none in {path}.")
    return rows


def check_count(owner: str, name: str, value: Any, least: int) -> int:
    """A whole number of at least ``least``.

    Raises:
        ArgumentError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"{owner}.{name} must be a whole number of at least {least}, got {value!r}.")
    return value


def _field(row: Mapping[str, Any], key: str, where: str, kinds: tuple[type, ...], told: str) -> str:
    """A field that is not empty, as text."""
    if key not in row:
        raise ConfigurationError(f"{where} must have the field {key}, got {', '.join(row) or 'none'}.")
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ConfigurationError(f"{key} in {where} must be {told}, got {value!r:.60}.")
    if not str(value).strip():
        raise ConfigurationError(f"{key} in {where} must not be empty. Correct the row, or leave it out.")
    return str(value)
