"""Products of an output head's weights, kept for as long as the weights stay the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_select.signals.head.terms import owner_of
from lightning_select.torch_compat import version_of

__all__ = ["HeadCache"]


_SAMPLED = 4096
_CADENCE = 50


@dataclass(frozen=True)
class _Kept:
    owners: tuple[weakref.ref[Tensor], ...]
    stamp: tuple[object, ...]
    value: Tensor


class HeadCache:
    """What was computed from weights, computed again only when they change.

    A weight has changed when torch counted a write to it or its memory is another one. There are writes past that count
    (through ``.data``), so a weight that is trained is also taken to change with every optimizer step, and some numbers
    of every weight are compared with what they were: on the CPU each time, on other devices, where that is a wait,
    every 50 steps. A weight that is not a parameter (the merged weight of an adapter) is new each time.

    Attributes:
        step: The optimizer step; set by the owner before each use.
    """

    def __init__(self) -> None:
        self.step = 0
        self._kept: dict[Hashable, _Kept] = {}
        self._samples: dict[int, tuple[int, float]] = {}

    def get(self, key: Hashable, weights: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """``compute()``, or what it returned last time for the same ``key`` and unchanged ``weights``."""
        owners = [_owner(weight) for weight in weights]
        if any(owner is None for owner in owners):
            return compute()
        lasting = [owner for owner in owners if owner is not None]
        place = (key, *((id(owner), weight.stride()) for owner, weight in zip(lasting, weights, strict=True)))
        stamp = tuple(self._stamp(owner) for owner in lasting)
        kept = self._kept.get(place)
        if (
            kept is not None
            and kept.stamp == stamp
            and all(r() is o for r, o in zip(kept.owners, lasting, strict=True))
        ):
            return kept.value
        self._kept.pop(place, None)  # before the new one is made: only one of them need fit into memory
        value = compute()
        self._kept[place] = _Kept(tuple(map(weakref.ref, lasting)), stamp, value)
        return value

    def _stamp(self, weight: Tensor) -> tuple[object, ...]:
        changes = self.step if weight.requires_grad else None
        return weight.data_ptr(), version_of(weight), weight.dtype, changes, self._sample(weight)

    def _sample(self, weight: Tensor) -> float | None:
        """A sum over some of the numbers; ``None`` where asking for it would be a wait for nothing."""
        on_host = weight.device.type == "cpu"
        if weight.requires_grad and not on_host:
            return None
        when, value = self._samples.get(id(weight), (-1, 0.0))
        if on_host or when != self.step // _CADENCE:
            some = weight.detach().reshape(-1)[:: max(1, weight.numel() // _SAMPLED)]
            value = float(some.float().cpu().numpy().sum())
            self._samples[id(weight)] = (self.step // _CADENCE, value)
        return value


def _owner(weight: Tensor) -> Tensor | None:
    """The parameter or buffer that ``weight`` is all of, or ``None`` if it is only a part or made for the moment."""
    base = owner_of(weight)
    whole = base.data_ptr() == weight.data_ptr() and base.numel() == weight.numel()
    return base if isinstance(base, nn.Parameter) and whole and not torch.is_inference(base) else None
