"""Weights that are split over the ranks, and are whole only while the module, or its part, runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

from lightning_select.errors import ConfigurationError
from lightning_select.types import Batch

__all__ = ["check_strategy", "inside_of_wrapper", "left_sharded", "sharding_parts", "sharding_strategy"]

T = TypeVar("T")

_STRATEGIES = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")
_WRAPPER, _PART = "FullyShardedDataParallel", "FSDPModule"


def sharding_strategy(strategy: Any) -> str:
    """Which of Lightning's strategies that split weights this one is, or is derived from; empty where it is none."""
    names = _names(strategy)
    return next((name for name in _STRATEGIES if name in names), "")


def check_strategy(owner: str, strategy: Any) -> None:
    """Ranks have rows of their own, and the strategy is one that the tests know.

    Raises:
        ConfigurationError: It is DeepSpeed, or several ranks compute the same rows (tensor parallel).
    """
    kind = sharding_strategy(strategy)
    if kind == "DeepSpeedStrategy":
        raise ConfigurationError(
            f"{owner} must train by a strategy that it was tested with, got {type(strategy).__name__}. "
            'Use "ddp", "fsdp" or ModelParallelStrategy.'
        )
    mesh = getattr(strategy, "device_mesh", None) if kind == "ModelParallelStrategy" else None
    if mesh is not None and (ranks := mesh["tensor_parallel"].size()) > 1:
        raise ConfigurationError(
            f"{owner} must train with rows of its own on every rank, got {type(strategy).__name__} with {ranks} ranks "
            "for the same rows. Use data_parallel_size=<number of devices> and tensor_parallel_size=1."
        )


def inside_of_wrapper(trainer: Any, module: nn.Module, call: Callable[[Batch], T], batch: Batch) -> T:
    """``call(batch)`` from where the module's ``forward`` runs, if that is where its weights are put together.

    What is left of the weights outside are shards, with which no step can be run. All ranks have to come here, from
    outside of such a wrapper. Where nothing is split it is a plain call.
    """
    wrapper = getattr(getattr(trainer, "strategy", None), "model", None)
    own = wrapper is module or getattr(wrapper, "module", None) is module
    if wrapper is None or not own or (_PART if wrapper is module else _WRAPPER) not in _names(wrapper):
        return call(batch)
    box: list[T | Exception] = []

    def forward(batch: Batch) -> None:
        attributes.pop("forward")
        attributes.update(held)
        try:
            box.append(call(batch))
        except Exception as error:  # the wrapper is to end its pass in good order
            box.append(error)

    attributes = vars(module)
    held = {name: attributes[name] for name in ("forward",) if name in attributes}
    attributes["forward"] = forward
    try:
        wrapper(batch)
    finally:
        if attributes.get("forward") is forward:
            del attributes["forward"]
            attributes.update(held)
    (found,) = box
    if isinstance(found, Exception):
        raise found
    return found


def sharding_parts(module: nn.Module) -> list[Any]:
    """The parts that split their weights themselves (``fully_shard``)."""
    return [part for part in module.modules() if _PART in _names(part)]


@contextmanager
def left_sharded(parts: Iterable[Any]) -> Iterator[None]:
    """Those whose weights are split now are so in the end: the outermost ones leave them whole after a pass."""
    split = [part for part in parts if _is_split(part)]
    try:
        yield
    finally:
        for part in split:
            if not _is_split(part):
                part.reshard()


def _is_split(part: nn.Module) -> bool:
    return all("DTensor" in _names(weight) for weight in part.parameters())


def _names(value: Any) -> set[str]:
    """Names of the classes of a value; torch's own take long to import, for the few who need them."""
    return {kind.__name__ for kind in type(value).__mro__}
