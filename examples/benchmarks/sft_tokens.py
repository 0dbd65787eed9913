"""Byte-pair merges (Sennrich, Haddow and Birch, 2016) in a few lines, and prompts with answers as rows of tokens."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["IGNORED", "Tokenizer"]

IGNORED = -100
"""Label of a token that the loss does not count."""

_WORD = re.compile(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s")
_RARE = 3
"""Words that are seen less often do not vote on merges."""


@dataclass
class Tokenizer:
    """Bytes, then merges in the order in which they were learnt, then a token between prompt and answer and an end."""

    merges: Sequence[tuple[int, int]]
    _ranks: dict[tuple[int, int], int] = field(init=False, repr=False)
    _known: dict[str, list[int]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}

    @property
    def size(self) -> int:
        """Number of tokens."""
        return 256 + len(self.merges) + 2

    @classmethod
    def learn(cls, texts: Iterable[str], size: int) -> Tokenizer:
        """As many merges as make a vocabulary of ``size``, or fewer if the text has no more pairs."""
        counts = Counter(word for text in texts for word in _WORD.findall(text))
        words = [(list(word.encode()), count) for word, count in counts.items() if count >= _RARE]
        pairs: Counter[tuple[int, int]] = Counter()
        places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for place, (tokens, count) in enumerate(words):
            for pair in pairwise(tokens):
                pairs[pair] += count
                places[pair].add(place)
        merges: list[tuple[int, int]] = []
        while len(merges) < size - 258 and pairs:
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            for place in places.pop(best):
                tokens, count = words[place]
                for pair in pairwise(tokens):
                    pairs[pair] -= count
                tokens[:] = _merged(tokens, best, 256 + len(merges))
                for pair in pairwise(tokens):
                    pairs[pair] += count
                    places[pair].add(place)
            merges.append(best)
            pairs = +pairs
        return cls(merges)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return [token for word in _WORD.findall(text) for token in self._encode_word(word)]

    def running(self, texts: Iterable[str], length: int) -> Tensor:
        """All texts one after the other, cut into rows."""
        tokens = [token for text in texts for token in [*self.encode(text), self.size - 1]]
        rows = len(tokens) // length
        return torch.tensor(tokens[: rows * length]).view(rows, length)

    def rows(self, pairs: Iterable[tuple[str, str]], length: int) -> tuple[Tensor, Tensor]:
        """Prompt, separator, answer, end: tokens, and labels that leave out prompt and padding.

        An answer is cut at its end, to two thirds of the length at most; a prompt at its start, to what is then left.
        """
        tokens, labels = [], []
        for prompt, answer in pairs:
            after = [*self.encode(answer), self.size - 1][: 2 * length // 3]
            before = [*self.encode(prompt)[-(length - len(after) - 1) :], self.size - 2]
            padding = length - len(before) - len(after)
            tokens.append(before + after + [0] * padding)
            labels.append([IGNORED] * len(before) + after + [IGNORED] * padding)
        return torch.tensor(tokens), torch.tensor(labels)

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._known:
            tokens = list(word.encode())
            while True:
                found = [pair for pair in pairwise(tokens) if pair in self._ranks]
                if not found:
                    break
                best = min(found, key=self._ranks.__getitem__)
                tokens = _merged(tokens, best, 256 + self._ranks[best])
            self._known[word] = tokens
        return self._known[word]


def _merged(tokens: Sequence[int], pair: tuple[int, int], name: int) -> list[int]:
    """Every ``pair`` replaced, from left to right."""
    merged: list[int] = []
    position = 0
    while position < len(tokens):
        there = tuple(tokens[position : position + 2]) == pair
        merged.append(name if there else tokens[position])
        position += 2 if there else 1
    return merged
