"""Questions to the autograd graph between a loss and the reductions that were seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_select.signals.recording.records import Record, Unreduced
from lightning_select.torch_compat import output_size

__all__ = ["dependencies", "hides_a_reduction", "reaching"]

_COEFFICIENTS = 64
"""Up to so many numbers, a parameter is taken for learned weights of the losses and not for part of a loss."""


def dependencies(records: Sequence[Record]) -> list[set[int]]:
    """Places of the earlier reductions that each one depends on.

    A loss that only combines others does (``torch.stack([loss_1, loss_2]).sum()``), and so does one whose terms pass
    through a number on their way (a spectral norm, a mean over the batch that they are divided by).
    """
    found: list[set[int]] = []
    before: list[tuple[int, Tensor]] = []
    for place, record in enumerate(records):
        grads: Sequence[Tensor | None] = []
        if record.connected and before:
            start = torch.ones_like(record.scalar)
            scalars = [scalar for _, scalar in before]
            grads = torch.autograd.grad(record.scalar, scalars, start, retain_graph=True, allow_unused=True)
        found.append({number for (number, _), grad in zip(before, grads, strict=False) if grad is not None})
        before += [(place, record.scalar)] if record.connected else []
    return found


def reaching(loss: Tensor, unreduced: Sequence[Unreduced]) -> tuple[bool, ...]:
    """Which of these losses does ``loss`` send a gradient through?"""
    terms = [one.terms for one in unreduced if one.terms is not None]
    if not terms or not loss.requires_grad:
        return (False,) * len(unreduced)
    found = iter(torch.autograd.grad(loss, terms, torch.ones_like(loss), retain_graph=True, allow_unused=True))
    return tuple(one.terms is not None and next(found) is not None for one in unreduced)


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
