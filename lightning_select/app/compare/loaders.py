"""The loaders of a run, so that methods differ in what they choose and in nothing else.

Training loaders draw their order from generators of their own. Validation and test loaders have batches of the size
that they have in the run of uniform: many data modules use one size for all of their loaders, and a metric that is
taken within a batch (retrieval among its rows), or averaged over batches, depends on it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader

from lightning_select.app.fit import defines

__all__ = ["batches_of", "flatten", "pin_order", "share_sizes", "train_owner"]

_STAGES = ("val", "test")
_UNKNOWN = "?"

_APART = 1_000_003
"""Between the seeds of loaders whose batches are put together, so that their orders are not the same."""


def flatten(loaders: Any) -> Iterator[Any]:
    """The loaders in a list, a mapping or one of Lightning's combined loaders, in their order."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    elif hasattr(loaders, "flattened"):
        loaders = loaders.flattened
    if isinstance(loaders, (list, tuple)):
        for one in loaders:
            yield from flatten(one)
    else:
        yield loaders


def batches_of(loaders: Any) -> int:
    """Batches of an epoch. Shorter ones of several loaders are cycled through, as the Trainer does it.

    Raises:
        TypeError: A loader has no length.
    """
    if not hasattr(loaders, "flattened"):
        return max(len(one) for one in flatten(loaders))
    iter(loaders)  # only then does a combined loader know its length
    batches = len(loaders)
    loaders.reset()
    return batches


def train_owner(data: Any, model: Any) -> Any:
    """Who makes the training loader."""
    return data if defines(data, "train_dataloader") else model


def pin_order(owner: Any, seed: int, watch: Callable[[Any], None]) -> None:
    """Draw the order of rows from generators of its own, so that a method which draws numbers does not change it.

    There is one per loader and run: loaders that are made anew each epoch go on where the last one was.

    Args:
        owner: The data or the module, whose ``train_dataloader`` is replaced.
        seed: Seed of the run.
        watch: Is told of what ``train_dataloader`` returns.
    """
    make = owner.train_dataloader
    generators: dict[tuple[int, str], torch.Generator] = {}

    @functools.wraps(make)
    def train_dataloader() -> Any:
        loaders = make()
        for place, loader in enumerate(flatten(loaders)):
            if not isinstance(loader, DataLoader):
                continue
            inner = getattr(loader.batch_sampler, "sampler", None)
            for name, holder in (("loader", loader), ("sampler", loader.sampler), ("inner", inner)):
                if getattr(holder, "generator", seed) is None:
                    own = torch.Generator().manual_seed(seed + _APART * place)
                    vars(holder)["generator"] = generators.setdefault((place, name), own)
        watch(loaders)
        return loaders

    vars(owner)["train_dataloader"] = train_dataloader


def share_sizes(data: Any, model: Any, expected: str) -> Callable[[], str]:
    """Make validation and test batches as large as expected, where they come from plain loaders.

    Args:
        data: The data module, or ``None``.
        model: The module.
        expected: Sizes, as what is returned told them in another run; empty leaves all as they are.

    Returns:
        Tells the sizes of the loaders that were made so far, as in ``val:16,16 test:100``.
    """
    wanted = dict(stage.split(":") for stage in expected.split())
    seen: dict[str, str] = {}
    for stage in _STAGES:
        name = f"{stage}_dataloader"
        owner = next((one for one in (data, model) if defines(one, name)), None)
        if owner is not None:
            vars(owner)[name] = _sized(getattr(owner, name), stage, wanted.get(stage, ""), seen)
    return lambda: " ".join(f"{stage}:{sizes}" for stage, sizes in seen.items())


def _sized(make: Callable[[], Any], stage: str, wanted: str, seen: dict[str, str]) -> Callable[[], Any]:
    @functools.wraps(make)
    def dataloader() -> Any:
        loaders = make()
        sizes = wanted.split(",") if wanted else []
        if len(sizes) == len(list(flatten(loaders))):
            loaders = _resized(loaders, iter(sizes))
        seen[stage] = ",".join(str(getattr(one, "batch_size", None) or _UNKNOWN) for one in flatten(loaders))
        return loaders

    return dataloader


def _resized(loaders: Any, sizes: Iterator[str]) -> Any:
    """The same loaders, with the next of these sizes where that can be."""
    if isinstance(loaders, Mapping):
        return {name: _resized(one, sizes) for name, one in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [_resized(one, sizes) for one in loaders]
    if hasattr(loaders, "flattened"):
        return loaders
    size, inner = next(sizes), getattr(loaders, "batch_sampler", None)
    if not isinstance(loaders, DataLoader) or inner is None or type(inner) is not BatchSampler:
        return loaders
    if size == _UNKNOWN or loaders.batch_size in (None, int(size)):
        return loaders
    resized = copy.copy(loaders)  # the user may keep the loader, and train from it too
    # Replaced in __dict__, because a DataLoader refuses the plain assignment.
    vars(resized).update(batch_size=int(size), batch_sampler=BatchSampler(inner.sampler, int(size), inner.drop_last))
    return resized
