"""Finds out for what a sampler would wait, were it on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_select import looking

__all__ = ["Waits", "as_on_a_device", "waits"]

LOOKS = ("_checks", "_looks")
"""Switches of the parts that look at values, for errors, where that is free: on the CPU."""


class Waits(TorchDispatchMode):
    """Counts operations for which the host would wait on a device."""

    WAITING = (
        "aten._local_scalar_dense",
        "aten.nonzero",
        "aten.masked_select",
        "aten.is_nonzero",
        "aten.equal",
        "aten._unique",
        "aten.unique",
        "aten.bincount",
        "aten.repeat_interleave.Tensor",
    )

    def __init__(self, *, lists: bool = True) -> None:
        super().__init__()
        self.lists = lists
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func.name().startswith("aten::index") and any(
            isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)
            for arg in args
            if isinstance(arg, (list, tuple))
            for one in arg
        )
        # torch's own look at the levels of a quantile, on the CPU alone: are they all in range?
        asked = str(func).startswith("aten.equal") and args[0].dtype == torch.bool and not args[0].dim()
        if (str(func).startswith(self.WAITING) and not asked) or masked:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        """Nobody may look at a value, as if it were on a device.

        With ``lists`` also see what torch does not dispatch: from a tensor to a list, and from a list to a device.

        ``numpy()`` is no wait: on a device it is an error, so where it works there is nothing to wait for.
        """
        watched = [(Tensor, "tolist"), (torch, "tensor"), (torch, "as_tensor")] if self.lists else []
        self._patches = [self._watched(owner, name) for owner, name in watched]
        self._patches.append(mock.patch.object(looking, "_FREE", frozenset()))
        for patch in self._patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        for patch in self._patches:
            patch.stop()
        return super().__exit__(*error)

    def _watched(self, owner: Any, name: str) -> Any:
        original = getattr(owner, name)

        def watching(*args, **kwargs):
            self.seen.append(name)
            return original(*args, **kwargs)

        return mock.patch.object(owner, name, watching)


@contextmanager
def as_on_a_device(sampler: Any) -> Iterator[None]:
    """Have the parts of a sampler look at no value, as they would on a device."""
    held = [one for part in vars(sampler).values() for one in (part if isinstance(part, list) else [part])]
    parts = [(part, name) for part in (sampler, *held) for name in LOOKS if name in vars_of(part)]
    before = [(part, name, getattr(part, name)) for part, name in parts]
    for part, name in parts:
        setattr(part, name, False)
    try:
        yield
    finally:
        for part, name, value in before:
            setattr(part, name, value)


def vars_of(part: Any) -> dict[str, Any]:
    return getattr(part, "__dict__", {})


def waits(sampler: Any, action: Callable[[], Any]) -> list[str]:
    """For what ``action`` would wait on a device: nothing, if all is well."""
    with as_on_a_device(sampler), Waits() as mode:
        action()
    return mode.seen
