"""Pairs, models and fits for the tests of peer review."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_select.preferences.easy_first import EasyFirst
from lightning_select.preferences.made_up_pairs import made_up_pairs
from lightning_select.preferences.pair_draws import PairDraws
from lightning_select.preferences.peer_review import PeerReview
from lightning_select.preferences.reward_mlp import RewardMLP

FEATURES = 6
MODEL = partial(RewardMLP, FEATURES, 16)
SGD = partial(torch.optim.SGD, lr=0.1)


class Pairs(Dataset[Any]):
    """Pairs that know their place."""

    def __init__(self, count: int = 40, noise: float = 0.4, seed: int = 3) -> None:
        self.columns = {**made_up_pairs(count, FEATURES, noise, seed), "place": torch.arange(count)}

    def __len__(self) -> int:
        return len(self.columns["place"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: column[row] for name, column in self.columns.items()}

    def take(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return {name: column[list(rows)] for name, column in self.columns.items()}


def loader(
    pairs: Pairs, size: int = 8, curriculum: EasyFirst | None = None, streams: int = 2, **kwargs: Any
) -> DataLoader[Any]:
    """Batches of ``size`` pairs for each of the two models."""
    order = PairDraws(pairs, curriculum=curriculum, streams=streams, seed=5)
    return DataLoader(pairs, streams * size, sampler=order, **kwargs)


def review(**kwargs: Any) -> PeerReview:
    return PeerReview(kwargs.pop("models", MODEL), **{"seeds": (0, 1), "optimizer": SGD, **kwargs})


def one_model(seed: int, make: Any = MODEL) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
