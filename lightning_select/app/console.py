"""What the application says on the terminal, and what it keeps others from saying."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.warnings import PossibleUserWarning

__all__ = ["complain", "harmless", "hush", "say"]

_SPELLED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def harmless(text: str) -> str:
    """The text with control characters spelled out, because those of a terminal may move its cursor or hide lines."""
    return text.translate(_SPELLED)


def say(text: str) -> None:
    """Write a line (or several) to standard output, at once."""
    sys.stdout.write(f"{harmless(text)}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write a line to standard error, in the name of the command."""
    sys.stderr.write(f"lightning-select: {harmless(text)}\n")
    sys.stderr.flush()


@contextmanager
def hush() -> Iterator[None]:
    """Keep Lightning's announcements (devices, tips, limits reached) out of a progress bar over many runs."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.13
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
