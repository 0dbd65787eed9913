"""Where looking at a value is free.

A step must not wait for an accelerator (that idles while the host makes up its mind), so what depends on values is
computed there, all cases of it. Values in the host's memory may simply be looked at, and the one case computed that
there is.
"""

from __future__ import annotations

import torch

__all__ = ["may_look"]

_FREE = frozenset({"cpu"})


def may_look(device: torch.device) -> bool:
    """Does the host read values of this device without waiting for it?"""
    return device.type in _FREE
