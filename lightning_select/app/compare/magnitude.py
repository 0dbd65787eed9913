"""Which values of a metric can be computed with."""

from __future__ import annotations

__all__ = ["is_finite"]

_LARGEST = 1e100
"""Sums and squares of what is smaller are numbers, too; what is larger is a run that diverged."""


def is_finite(value: float) -> bool:
    """Is this a number, and not so large that a mean of several is none?"""
    return abs(value) < _LARGEST  # which is false for what is no number
