"""Three texts made from one: clean, half of it copies of few rows, a tenth of it garbled; and clean text held out.

A row is a stretch of characters that starts anywhere. Training, validation and test rows come from three parts of the
text that do not overlap, so nothing held out was trained on.
"""

from __future__ import annotations

import gzip
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from common import InMemory
from fits import Data
from torch import Tensor

__all__ = ["CLEAN", "GARBLED", "KINDS", "REDUNDANT", "Corpus", "Kind", "load_corpus", "made_up"]

Kind = Literal["redundant", "corrupted", "clean"]
REDUNDANT: Kind = "redundant"
GARBLED: Kind = "corrupted"
CLEAN: Kind = "clean"
KINDS: tuple[Kind, ...] = (REDUNDANT, GARBLED, CLEAN)

PARTS = (0.8, 0.9)
"""Where the text to train on ends, and where that to choose settings on does."""
COPIED, GARBLED_SHARE = 0.5, 0.1
"""Shares of the training rows that are copies, or garbled."""
ORIGINALS = 64
"""Rows that the copies are of."""
TRAIN, VALIDATION, TEST = range(3)


@dataclass(frozen=True)
class Corpus:
    """Characters as numbers below ``vocabulary``."""

    name: str
    characters: Tensor
    vocabulary: int

    @classmethod
    def of(cls, name: str, text: str) -> Corpus:
        """Characters seen less than ten times are one and the same."""
        known = sorted(one for one, count in Counter(text).items() if count >= 10)
        numbers = {one: number for number, one in enumerate(known, start=1)}
        return cls(name, torch.tensor([numbers.get(one, 0) for one in text]), len(known) + 1)

    def rows(self, part: int, count: int, length: int, seed: int) -> Tensor:
        """Rows of a part of the text that start anywhere, in an order by the seed."""
        ends = [0, *(round(len(self.characters) * share) for share in PARTS), len(self.characters)]
        windows = self.characters[ends[part] : ends[part + 1]].unfold(0, length, 1)
        generator = torch.Generator().manual_seed(seed)
        return windows[torch.randint(len(windows), (count,), generator=generator)]

    def data(self, kind: Kind, seed: int, sizes: tuple[int, int], length: int, tuning: bool) -> Data:
        """Rows to train on, with a third column that marks copies and garbled rows, and clean rows to look at.

        The clean rows are the same for all kinds of text and all seeds, and others where settings are chosen.
        """
        train, held = sizes
        tokens = self.rows(TRAIN, train, length, seed)
        marked = torch.zeros(train, dtype=torch.bool)
        generator = torch.Generator().manual_seed(1_000 + seed)
        if kind == REDUNDANT:
            marked[: round(train * COPIED)] = True
            which = torch.randint(ORIGINALS, (int(marked.sum()),), generator=generator)
            tokens[marked] = tokens[-ORIGINALS:][which]
        elif kind == GARBLED:
            marked[: round(train * GARBLED_SHARE)] = True
            order = torch.rand(int(marked.sum()), length, generator=generator).argsort(dim=1)
            tokens[marked] = tokens[marked].gather(1, order)
        looked_at = self.rows(VALIDATION if tuning else TEST, held, length, 0)
        return Data(InMemory(tokens, tokens, marked), InMemory(looked_at, looked_at))


def load_corpus(folder: Path) -> Corpus:
    """The plays of Shakespeare (Karpathy's "tiny Shakespeare"), as ``shakespeare.txt.gz`` or ``shakespeare.txt``."""
    packed, plain = folder / "shakespeare.txt.gz", folder / "shakespeare.txt"
    if packed.exists():
        return Corpus.of("Tiny Shakespeare", gzip.decompress(packed.read_bytes()).decode())
    if plain.exists():
        return Corpus.of("Tiny Shakespeare", plain.read_text(encoding="utf-8"))
    raise SystemExit(f"--data must be a folder with shakespeare.txt.gz or shakespeare.txt, got {folder}.")


def made_up(sentences: int = 12_000) -> Corpus:
    """Sentences of a grammar of four kinds of words, spelt by syllables; few words are common and most are rare."""
    draw = random.Random(0)
    syllables = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in ("", "n", "r", "s")]
    kinds = [["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(400)] for _ in range(4)]
    often = [1 / rank for rank in range(1, 401)]
    shapes = [(0, 1, 2, 1), (1, 2, 1), (0, 3, 1, 2), (1, 2, 0, 1, 3), (3, 2, 1)]
    lines = []
    for _ in range(sentences):
        words = [draw.choices(kinds[kind], often)[0] for kind in draw.choice(shapes)]
        lines.append(" ".join(words).capitalize() + draw.choice(".,?!") + "\n")
    return Corpus.of("a made-up grammar", "".join(lines))
