"""Instructions with answers of which most are near copies of others, and general text: from files, or made up.

Two rows are near copies if their sets of words, of the last line of the instruction, input and answer, overlap by half
(Jaccard). The lines before the last one describe a tool in the pool that this was made for, alike in many rows.

Held-out rows are no near copies of each other, so that each kind of row counts once however often it is repeated; and
whatever is a near copy of a held-out row is left out of training, so that none was as good as seen.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["Pool", "Split", "load_pool", "load_text", "made_up"]

OVERLAP = 0.5


@dataclass(frozen=True)
class Split:
    """Numbers of rows."""

    train: Tensor
    validation: Tensor
    test: Tensor


class Pool:
    """Prompts and answers, and which of them are near copies of each other."""

    def __init__(self, name: str, pairs: Sequence[tuple[str, str]], text: Sequence[str]) -> None:
        self.name, self.pairs, self.text = name, pairs, text
        self._words = _word_sets([f"{prompt.splitlines()[-1]} {answer}" for prompt, answer in pairs])

    def copies(self, rows: Tensor, others: Tensor) -> Tensor:
        """Is each of ``rows`` a near copy of each of the ``others``, or the same?"""
        words, counts = self._words
        unchecked: Any = torch.sparse.check_sparse_tensor_invariants
        with unchecked(enable=False):  # or torch warns of what it does not check
            wanted = words.index_select(0, others).to_dense()
            shared = torch.cat([torch.mm(words.index_select(0, part), wanted.T) for part in torch.split(rows, 1024)])
        alike = shared >= OVERLAP * (counts[rows].unsqueeze(1) + counts[others] - shared)
        return alike | (rows.unsqueeze(1) == others)  # words that one row alone has are not among those shared

    def repeats(self, rows: Tensor) -> float:
        """Share of rows that are near copies of an earlier one."""
        earlier = self.copies(rows, rows).tril(-1)
        return float(earlier.any(dim=1).double().mean())

    def split(self, seed: int, sizes: tuple[int, int, int]) -> Split:
        """Rows to train on, to choose rates on and to test on; at most so many, fewer where copies are left out."""
        train, validation, test = sizes
        order = torch.randperm(len(self.pairs), generator=torch.Generator().manual_seed(seed))
        first = order[: 8 * (validation + test)]
        alike = self.copies(first, first).tril(-1)
        held: list[int] = []
        for row in range(len(first)):
            if len(held) < validation + test and not alike[row, held].any():
                held.append(row)
        out = first[held]
        copied = self.copies(order, out).any(dim=1)  # a row is a copy of itself, so what is held out leaves too
        return Split(order[~copied][:train], out[:validation], out[validation:])


def _word_sets(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Rows by words, sparse, and the number of words of each row; words of one row alone are counted only."""
    sets = [set(re.findall(r"\w+", text.lower())) for text in texts]
    seen = Counter(word for words in sets for word in words)
    columns = {word: number for number, word in enumerate(word for word, count in seen.items() if count > 1)}
    places = [(row, columns[word]) for row, words in enumerate(sets) for word in words if word in columns]
    index = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).T
    table = torch.sparse_coo_tensor(
        index, torch.ones(index.shape[1]), (len(texts), len(columns)), check_invariants=True
    )
    return table.coalesce(), torch.tensor([float(len(words)) for words in sets])


def load_pool(path: Path, text: Sequence[str]) -> Pool:
    """A JSON list or JSON lines, gzipped or not, with instruction, input and output or response."""
    content = _read(path)
    rows = json.loads(content) if content.lstrip().startswith("[") else list(map(json.loads, content.splitlines()))
    pairs = [
        (
            f"{row['instruction']} {row.get('input', '')}".strip(),
            str(row["output"] if "output" in row else row["response"]),
        )
        for row in rows
    ]
    return Pool(path.name.split(".")[0], [pair for pair in pairs if all(pair)], text)


def load_text(folder: Path) -> list[str]:
    """All English prose of the folder: WikiText and C4."""
    found = [_read(path) for path in sorted(folder.glob("wikitext*.txt*"))]
    for path in sorted(folder.glob("c4*.jsonl*")):
        found += [json.loads(line)["text"] for line in _read(path).splitlines()]
    if not found:
        raise SystemExit(f"{folder} must have wikitext*.txt or c4*.jsonl, gzipped or not, and has neither.")
    return found


def _read(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


def made_up(rows: int, seed: int = 0) -> Pool:
    """Seven of ten rows fill in a template, five in twenty go on with a sentence, one in twenty is noise.

    Words follow each other by a chain, each of eight others; the general text is sentences of that chain.
    """
    draw = random.Random(seed)
    parts = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    lexicon = sorted({draw.choice(parts) + draw.choice(parts) + draw.choice(("", "n", "s")) for _ in range(400)})
    follow = {word: draw.sample(lexicon, 8) for word in lexicon}

    def sentence(length: int) -> list[str]:
        words = [draw.choice(lexicon)]
        while len(words) < length:
            words.append(draw.choice(follow[words[-1]]))
        return words

    templates = [(" ".join(sentence(5)), " ".join(sentence(7))) for _ in range(max(1, rows // 12))]

    def row() -> tuple[str, str]:
        kind = draw.random()
        if kind < 0.7:
            (asked, answered), slot = draw.choice(templates), draw.choice(lexicon)
            return f"{asked} {slot}", f"{answered} {slot} {follow[slot][0]}"
        words = sentence(16)
        if kind < 0.95:
            return " ".join(words[:6]), " ".join(words[6:])
        return " ".join(words[:6]), " ".join("".join(draw.choices("bdfgklmnprstvz", k=5)) for _ in range(8))

    pairs = [row() for _ in range(rows)]
    return Pool("made up", pairs, [" ".join(sentence(400)) for _ in range(rows // 8)])
