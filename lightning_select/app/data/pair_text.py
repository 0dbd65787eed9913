"""Preference pairs of a file as token ids, and as batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_select.language_models import start_tokens

__all__ = ["PairCollate", "swapped", "tokenized"]

Row = dict[str, Any]
"""``chosen`` and ``rejected``, token ids of the prompt with either, and ``flipped`` where it is known."""


def tokenized(pairs: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> list[Row]:
    """Prompt and completion of each pair, at most ``max_length`` tokens: the start of a longer prompt is cut off.

    Pairs whose completions are alike within that length are left out.
    """
    start, end = start_tokens(tokenizer), getattr(tokenizer, "eos_token_id", None)
    end_tokens = [] if end is None else [end]

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else []

    rows: list[Row] = []
    for pair in pairs:
        prompt = [*start, *ids(pair["prompt"])]
        row: Row = {} if pair["flipped"] is None else {"flipped": pair["flipped"]}
        for side in ("chosen", "rejected"):
            answer = [*ids(pair[side]), *end_tokens][:max_length]
            room = max_length - len(answer)
            row[side] = [*(prompt[-room:] if room else []), *answer]
        rows.append(row)
    kept = [row for row in rows if row["chosen"] != row["rejected"]]
    if len(kept) < len(rows):
        rank_zero_info(
            f"PairData leaves out {len(rows) - len(kept)} of {len(rows)} pairs, whose completions are the same within "
            f"max_length={max_length} tokens."
        )
    return kept


def swapped(rows: Sequence[Row], noise: int | float, draw: torch.Generator) -> list[Row]:
    """The same with the share ``noise`` of them the other way round, and ``flipped`` to tell which."""
    chosen = set(torch.randperm(len(rows), generator=draw)[: round(noise * len(rows))].tolist())
    return [
        {
            "chosen": row["rejected" if place in chosen else "chosen"],
            "rejected": row["chosen" if place in chosen else "rejected"],
            "flipped": row.get("flipped", False) ^ (place in chosen),
        }
        for place, row in enumerate(rows)
    ]


@dataclass(frozen=True)
class PairCollate:
    """Pairs of different lengths to one batch, padded on the right, chosen and rejected to one width.

    Attributes:
        pad: The token that fills up a row; the attention mask is zero on it.
    """

    pad: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The batch."""
        width = max(len(row[side]) for row in rows for side in ("chosen", "rejected"))
        batch: dict[str, Any] = {
            side: self._padded([row[side] for row in rows], width) for side in ("chosen", "rejected")
        }
        if all("flipped" in row for row in rows):
            batch["flipped"] = torch.tensor([row["flipped"] for row in rows])
        return batch

    def _padded(self, rows: Sequence[list[int]], width: int) -> dict[str, Tensor]:
        return {
            "input_ids": torch.tensor([row + [self.pad] * (width - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        }
