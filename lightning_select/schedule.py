"""When a method is on, and values that change while training goes on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from lightning_select.errors import ArgumentError, ConfigurationError

__all__ = ["Anneal", "Schedule", "resolve"]

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """The steps at which a method acts.

    Under manual optimisation, in a training bounded by epochs and not by ``max_steps``, steps are batches. Where
    both bound it, the length may be counted in batches and the way in optimiser steps: give steps, no fractions.

    Args:
        start: First optimiser step at which the method acts: an ``int`` is a step (0 is the first one), a ``float`` is
            a fraction of the whole training.
        stop: First step at which it no longer acts, as a step or a fraction; ``None`` is never.
        every: Between ``start`` and ``stop``, act at every so many steps.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> Schedule(start=0.5, every=2).active(step=50, total=100)
        True
        >>> Schedule(start=0.5, every=2).active(step=51, total=100)
        False
    """

    start: int | float = 0
    stop: int | float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        _check_point("Schedule.start", self.start)
        if self.stop is not None:
            _check_point("Schedule.stop", self.stop)
            if type(self.stop) is type(self.start) and self.stop <= self.start:
                raise ArgumentError(f"Schedule.stop must be after Schedule.start ({self.start}), got {self.stop}.")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ArgumentError(f"Schedule.every must be a whole number of steps, at least 1, got {self.every!r}.")

    def active(self, step: int, total: int | None) -> bool:
        """Does the method act at optimiser step ``step`` of ``total``?"""
        start = _to_step("Schedule.start", self.start, total)
        if step < start or (step - start) % self.every:
            return False
        return self.stop is None or step < _to_step("Schedule.stop", self.stop, total)

    @property
    def needs_total(self) -> bool:
        """Must the length of training be known?"""
        return isinstance(self.start, float) or isinstance(self.stop, float)


@dataclass(frozen=True)
class Anneal:
    """A value that moves from ``begin`` to ``end`` while training goes on; put it where a number is expected.

    Args:
        begin: Value at ``start`` and before.
        end: Value at ``stop`` and after.
        start: Where the change starts: an ``int`` is a step, a ``float`` a fraction of the whole training.
        stop: Where the change is complete.
        shape: ``linear``, ``cosine`` (slow at both ends) or ``exponential`` (equal ratios; needs positive values).

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> Anneal(begin=1.0, end=0.2, stop=0.5).at(step=25, total=100)
        0.6
    """

    begin: float
    end: float
    start: int | float = 0
    stop: int | float = 1.0
    shape: Literal["linear", "cosine", "exponential"] = "linear"

    def __post_init__(self) -> None:
        _check_point("Anneal.start", self.start)
        _check_point("Anneal.stop", self.stop)
        for name in ("begin", "end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ArgumentError(f"Anneal.{name} must be a finite number, got {value!r}.")
        if self.shape not in ("linear", "cosine", "exponential"):
            raise ArgumentError(f"Anneal.shape must be one of linear, cosine, exponential, got {self.shape!r}.")
        if self.shape == "exponential" and min(self.begin, self.end) <= 0:
            raise ArgumentError(
                f"Anneal.begin and end must be positive for an exponential, got {self.begin}, {self.end}."
            )
        if type(self.stop) is type(self.start) and self.stop <= self.start:
            raise ArgumentError(f"Anneal.stop must be after Anneal.start ({self.start}), got {self.stop}.")

    def at(self, step: int, total: int | None) -> float:
        """The value at optimiser step ``step`` of ``total``."""
        start = _to_step("Anneal.start", self.start, total)
        stop = _to_step("Anneal.stop", self.stop, total)
        share = min(max((step - start) / max(stop - start, 1), 0.0), 1.0)
        if self.shape == "exponential":
            return self.begin * (self.end / self.begin) ** share
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.begin + (self.end - self.begin) * share

    @property
    def needs_total(self) -> bool:
        """Must the length of training be known?"""
        return isinstance(self.start, float) or isinstance(self.stop, float)


def resolve(value: T, step: int, total: int | None) -> T:
    """``value`` at this step: an `Anneal` becomes its number, and so does every annealed field of a dataclass."""
    if isinstance(value, Anneal):
        number: Any = value.at(step, total)
        return number
    kind: Any = type(value)
    moving = {name: old.at(step, total) for name in _fields_of(kind) if isinstance(old := getattr(value, name), Anneal)}
    if not moving:
        return value
    annealed: Any = value
    return dataclasses.replace(annealed, **moving)


@cache
def _fields_of(kind: type) -> tuple[str, ...]:
    """Names of the fields that the constructor of a dataclass takes; none for any other class."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return tuple(field.name for field in fields if field.init)


def _check_point(name: str, point: int | float) -> None:
    if isinstance(point, bool) or not isinstance(point, (int, float)):
        raise ArgumentError(f"{name} must be a step (int) or a fraction of training (float), got {point!r}.")
    if isinstance(point, float) and not 0 <= point <= 1:
        raise ArgumentError(f"{name} must be in [0, 1] as a fraction of training, got {point}. A step is an int.")
    if point < 0:
        raise ArgumentError(f"{name} must not be negative, got {point}.")


def _to_step(name: str, point: int | float, total: int | None) -> int:
    if isinstance(point, int):
        return point
    if total is None:
        raise ConfigurationError(
            f"{name} must be a step while the length of training is unknown, got the fraction {point}. "
            "Set Trainer(max_steps=...) or max_epochs with a sized loader, or give an int."
        )
    return round(point * total)
