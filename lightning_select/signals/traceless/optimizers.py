"""Put back what a step changes of its optimizers' options and of its schedulers, such as a learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_select.signals.traceless.content import put_back
from lightning_select.torch_compat import inner_schedulers

__all__ = ["options_kept"]


@contextmanager
def options_kept(trainer: Any) -> Iterator[None]:
    """Inside, a step may turn every knob of the Trainer's optimizers and schedulers; afterwards all is as before.

    Options are all entries of a parameter group beside the parameters themselves. Of a scheduler, and of the
    schedulers in it, the attributes are kept, not what they hold. What an optimizer remembers of its parameters is
    not looked at: only its own ``step`` changes that.
    """
    if trainer is None:
        yield
        return
    lists = [(optimizer.param_groups, optimizer.param_groups.copy()) for optimizer in trainer.optimizers]
    tables = [(group, group.copy()) for groups, _ in lists for group in groups]
    values = [(value, value.clone()) for _, before in tables for value in before.values() if isinstance(value, Tensor)]
    tables += [(vars(part), vars(part).copy()) for part in _schedulers(trainer)]
    try:
        yield
    finally:
        for groups, before in lists:
            groups[:] = before
        for table, entries in tables:
            put_back(table, entries)
        if values:
            with torch.no_grad():
                for value, number in values:
                    value.copy_(number)


def _schedulers(trainer: Any) -> list[Any]:
    """The schedulers of a Trainer, and those that they consist of."""
    found = [config.scheduler for config in trainer.lr_scheduler_configs]
    for scheduler in found:
        found.extend(inner_schedulers(scheduler))
    return found
