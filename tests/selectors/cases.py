"""What the tests of selectors share: a context, the law of drawing without replacement, and a test of frequencies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from lightning_select.protocols import SelectionContext, Selector
from lightning_select.signals.base import Signals
from lightning_select.types import Selection
from tests.scores.cases import HOST_READS, Operations

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 3.0, -1.0, -math.inf]), min_size=1, max_size=9)
"""Scores with many ties, and rows that could not be scored."""


def context_of(seed: int = 0, state: Mapping[str, Tensor] | None = None, **signals: Tensor) -> SelectionContext:
    return SelectionContext(Signals(**signals), torch.Generator().manual_seed(seed), state or {})


def choose(selector: Selector, scores: Tensor | Sequence[float], count: int, seed: int = 0) -> list[int]:
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return selector(scores, count, context_of(seed)).index.tolist()


def host_reads(selector: Selector, scores: Tensor, count: int, context: SelectionContext) -> set[str]:
    with Operations() as operations:
        selector(scores, count, context)
    return operations.names & HOST_READS


def is_well_formed(selection: Selection, scores: Sequence[float], count: int, *, repeats: bool = False) -> bool:
    """Exactly ``count`` rows in the order of the batch, none twice, and no unscored one while a scored one is left."""
    index = selection.index.tolist()
    finite = {row for row, score in enumerate(scores) if math.isfinite(score)}
    best = set(index) <= finite or (set(index) >= finite and not repeats)
    return (
        selection.index.dtype == torch.int64
        and len(index) == count
        and index == sorted(index)
        and (repeats or len(set(index)) == count)
        and all(0 <= row < len(scores) for row in index)
        and (best or not finite)
    )


def chances_of_sets(chances: Sequence[float], count: int) -> dict[tuple[int, ...], float]:
    """Probability of every set of ``count`` rows, drawn one after the other in proportion to those that are left."""
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(chances)), count):
        left, probability = sum(chances), 1.0
        for row in order:
            probability *= chances[row] / left
            left -= chances[row]
        key = tuple(sorted(order))
        found[key] = found.get(key, 0.0) + probability
    return found


def agrees(counts: Mapping[object, int], chances: Mapping[object, float]) -> bool:
    """Chi-square test: is the statistic within five standard deviations of its mean?"""
    total, possible = sum(counts.values()), {key: chance for key, chance in chances.items() if chance > 0}
    if set(counts) - set(possible):
        return False
    statistic = sum((counts.get(key, 0) - total * chance) ** 2 / (total * chance) for key, chance in possible.items())
    freedom = len(possible) - 1
    return statistic < freedom + 5 * math.sqrt(2 * freedom)
