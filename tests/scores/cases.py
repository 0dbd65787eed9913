"""Signals of every form that a score may meet, taken apart in plain Python, and the operations that a score makes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_select.signals.base import Signals

ROWS, CLASSES, FEATURES = 5, 4, 3
ALONE = ("classes", "soft", "labels")
MASKED = ("ignored", "tokens", "images", "soft_tokens", "label_tokens")
CASES = (*ALONE, "whole_tokens", *MASKED)

HOST_READS = frozenset({"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "index", "masked_select"})
"""Operations that make the host wait for the device; ``index`` does so with a boolean mask."""


def signals_of(case: str, seed: int = 0) -> Signals:
    """Random signals; in masked cases the first row is valid throughout, the last in part, and row 3 not throughout."""
    random = torch.Generator().manual_seed(seed)
    tokens = {"images": (2, 3)}.get(case, (6,)) if "tokens" in case or case == "images" else ()
    shape = (ROWS, *tokens)
    targets: Tensor = torch.randint(CLASSES, shape, generator=random)
    if "label" in case:
        targets = torch.rand(*shape, CLASSES, generator=random).round(decimals=1)
    elif "soft" in case:
        targets = torch.rand(*shape, CLASSES, generator=random).softmax(dim=-1)
    valid = None
    if case in MASKED:
        valid = torch.rand(shape, generator=random) > 0.4
        valid[0] = True
        valid[-1].reshape(-1)[0] = True
        valid[3].reshape(-1)[0] = False
        targets = targets if targets.dim() > len(shape) else targets.masked_fill(~valid, -100)
    return Signals(
        logits=2 * torch.randn(*shape, CLASSES, generator=random),
        targets=targets,
        valid=valid,
        link="sigmoid" if "label" in case else "softmax",
        hidden=torch.randn(*shape, FEATURES, generator=random),
    )


@dataclass(frozen=True)
class Token:
    """One valid prediction of a row in plain numbers."""

    logits: list[float]
    target: list[float]
    hidden: list[float]
    link: str

    @property
    def probabilities(self) -> list[float]:
        """Softmax or sigmoid, as textbooks write them."""
        if self.link == "sigmoid":
            return [1 / (1 + math.exp(-x)) for x in self.logits]
        total = sum(math.exp(x) for x in self.logits)
        return [math.exp(x) / total for x in self.logits]


def rows_of(signals: Signals) -> Iterator[list[Token]]:
    """The valid tokens of each row."""
    for row in range(len(signals.logits)):
        logits = signals.logits[row].reshape(-1, CLASSES).tolist()
        hidden = signals.hidden[row].reshape(-1, FEATURES).tolist()
        targets = signals.targets[row]
        if signals.targets.dim() == signals.logits.dim():
            wanted = targets.reshape(-1, CLASSES).tolist()
        else:
            wanted = [[float(index == c) for c in range(CLASSES)] for index in targets.reshape(-1).tolist()]
        valid = [True] * len(logits) if signals.valid is None else signals.valid[row].reshape(-1).tolist()
        parts = zip(logits, wanted, hidden, valid, strict=True)
        yield [Token(x, y, phi, signals.link) for x, y, phi, there in parts if there]


def with_values(signals: Signals, row: int, value: float) -> Signals:
    """The same signals with all logits of one row replaced."""
    logits = signals.logits.clone()
    logits[row] = value
    return dataclasses.replace(signals, logits=logits)


def with_masked_row(signals: Signals, row: int, value: float = math.nan) -> Signals:
    """The same signals with no valid token in one row, whose logits and hidden state are anything."""
    valid = torch.ones(signals.logits.shape[:-1], dtype=torch.bool) if signals.valid is None else signals.valid.clone()
    valid[row] = False
    hidden = signals.hidden.clone()
    hidden[row] = value
    return dataclasses.replace(with_values(signals, row, value), valid=valid, hidden=hidden)


class Operations(TorchDispatchMode):
    """Notes the names of all operations, and the size of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func._schema.name.removeprefix("aten::"))
        self.largest = max([self.largest, *(x.numel() for x in tree_leaves(result) if isinstance(x, Tensor))])
        return result


def operations_of(score: Any, signals: Signals) -> Operations:
    """What the score does on the device."""
    with Operations() as operations:
        score(signals)
    return operations
