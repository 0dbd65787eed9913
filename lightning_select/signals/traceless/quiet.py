"""Run user code without a sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_select.compat import DummyLogger

__all__ = ["muted"]

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


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take the place of ``self.log``."""
