"""Casts of weights that autocast remembers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["fresh_casts"]


@contextmanager
def fresh_casts() -> Iterator[None]:
    """Inside, autocast casts the weights anew, and forgets it afterwards.

    It remembers a cast for as long as the outermost ``autocast`` lasts, which is the whole training step: weights that
    an optimizer has moved within the step would go on with their old values, and a cast made without a gradient
    would (in some versions of torch) keep the gradient from the weights later.
    """
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()
