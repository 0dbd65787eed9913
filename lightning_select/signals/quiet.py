"""Run user code without a sound: no logging, and every random generator as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_select.compat import DummyLogger

__all__ = ["kept_rng", "muted"]

_LOG_METHODS = ("log", "log_dict")


@contextmanager
def muted(module: nn.Module, trainer: Any = None) -> Iterator[None]:
    """Inside, ``module.log`` does nothing and the Trainer's loggers swallow what they are told."""
    held = {name: vars(module)[name] for name in _LOG_METHODS if name in vars(module)}
    vars(module).update({name: _nothing for name in _LOG_METHODS if hasattr(module, name)})
    loggers = None if trainer is None else trainer.loggers
    if loggers:
        trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        for name in _LOG_METHODS:
            vars(module).pop(name, None)
        vars(module).update(held)
        if loggers:
            trainer.loggers = loggers


@contextmanager
def kept_rng(device: torch.device) -> Iterator[None]:
    """Inside, draw as you like; afterwards the generators of Python, NumPy and torch are as before."""
    python, host = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002 (kept for user code that draws from it)
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(host)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take the place of ``self.log``."""
