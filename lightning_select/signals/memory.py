"""Did memory run out?"""

from __future__ import annotations

import torch

__all__ = ["is_out_of_memory", "pass_on_out_of_memory"]

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""How backends and libraries without an exception of their own put it."""

_KINDS = (RuntimeError, getattr(torch, "AcceleratorError", RuntimeError))
"""What they raise, and nothing that is derived from it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Is this what torch raises where a tensor does not fit on a device, or the host? Not Python's own MemoryError."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return type(error) in _KINDS and any(word in str(error) for word in _WORDS)


def pass_on_out_of_memory(error: Exception) -> None:
    """Raise the error anew if memory ran out; for places that can do without what failed for any other reason."""
    if is_out_of_memory(error):
        raise error
