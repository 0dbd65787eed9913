"""Two reward models that differ: of two that are the same, neither can tell the other anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lightning_select.errors import ArgumentError

__all__ = ["are_alike", "two_models"]


def two_models(
    models: Callable[[], nn.Module] | Sequence[nn.Module], seeds: Sequence[int] | None = None
) -> nn.ModuleList:
    """Both models in a list.

    Args:
        models: Makes a model, and is called twice; or two models.
        seeds: What torch's global generator is set to for each call, and only for that; ``None`` takes it as it is.

    Raises:
        ArgumentError: They are not two modules.
    """
    rule = "PeerReview.models must be a function that makes a model, or two models"
    if isinstance(models, (Sequence, nn.ModuleList)) and not isinstance(models, str):
        made: list[Any] = list(models)
        if len(made) != 2:
            raise ArgumentError(f"{rule}, got {len(made)}.")
        if made[0] is made[1]:
            raise ArgumentError(f"{rule}, got one model twice.")
    elif isinstance(models, nn.Module) or not callable(models):
        raise ArgumentError(f"{rule}, got {type(models).__name__}.")
    else:
        made = [models(), models()] if seeds is None else [_made(models, seed) for seed in _checked(seeds)]
    wrong = next((one for one in made if not isinstance(one, nn.Module)), None)
    if wrong is not None:
        raise ArgumentError(f"{rule}, got a {type(wrong).__name__} for a model.")
    return nn.ModuleList(made)


def are_alike(models: nn.ModuleList) -> bool:
    """Do both have the same parameters, to the last bit?"""
    one, other = (dict(model.named_parameters()) for model in models)
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


def _checked(seeds: Any) -> Sequence[int]:
    whole = isinstance(seeds, Sequence) and all(isinstance(one, int) and not isinstance(one, bool) for one in seeds)
    if not whole or len(seeds) != 2:
        raise ArgumentError(f"PeerReview.seeds must be two whole numbers, got {seeds!r}.")
    return seeds


def _made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
