"""Questions to the autograd graph between a loss and the reductions that were seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_select.compat import output_size
from lightning_select.signals.records import Record

__all__ = ["hides_a_reduction", "mixes"]

_COEFFICIENTS = 64
"""Up to so many numbers, a parameter is taken for learned weights of the losses and not for part of a loss."""


def mixes(records: Sequence[Record]) -> list[bool]:
    """Which reductions only combine others (``torch.stack([loss_1, loss_2]).sum()``)?"""
    before: list[Tensor] = []
    found = []
    for record in records:
        depends = False
        if record.connected and before:
            start = torch.ones_like(record.scalar)
            grads = torch.autograd.grad(record.scalar, before, start, retain_graph=True, allow_unused=True)
            depends = any(grad is not None for grad in grads)
        found.append(depends)
        before += [record.scalar] if record.connected else []
    return found


def hides_a_reduction(loss: Tensor, seen: Sequence[Tensor]) -> bool:
    """Does some of the loss come down to one number in a way that nobody saw (a fused kernel, ``weight.std()``)?"""
    stops: set[Any] = {scalar.grad_fn for scalar in seen}
    passed = set(stops)
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in passed:
            continue
        passed.add(node)
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        for parent in parents:
            if output_size(parent) == 1:
                waiting.append(parent)
            elif parent not in passed and _largest_leaf(parent, stops) > _COEFFICIENTS:
                return True
    return False


def _largest_leaf(start: Any, stops: set[Any]) -> int:
    """Most numbers of any parameter that is reached from here without passing ``stops``."""
    largest, passed, waiting = 0, set(stops), [start]
    while waiting:
        node = waiting.pop()
        if node in passed:
            continue
        passed.add(node)
        if hasattr(node, "variable"):
            largest = max(largest, node.variable.numel())
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    return largest
