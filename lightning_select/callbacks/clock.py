"""Time that each callback takes of a training run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["Clock"]


class Clock:
    """Seconds of the host by callback. On a GPU, where work is only handed over, they are the time of handing over.

    Attributes:
        seconds: Seconds so far, by callback.
    """

    def __init__(self) -> None:
        self.seconds: dict[Any, float] = {}

    @contextmanager
    def of(self, member: Any) -> Iterator[None]:
        """Count what happens inside for a callback."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(member, time.perf_counter() - started)

    @contextmanager
    def around(self, step: Callable[..., Any], members: Sequence[Any]) -> Iterator[Callable[..., Any]]:
        """Count what happens inside for these callbacks, in equal parts, but not ``step``; call what this gives."""
        inside = [0.0]

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            output = step(*args, **kwargs)
            inside[0] += time.perf_counter() - began
            return output

        started = time.perf_counter()
        try:
            yield timed
        finally:
            spent = time.perf_counter() - started - inside[0]
            for member in members:
                self._add(member, spent / len(members))

    def _add(self, member: Any, seconds: float) -> None:
        self.seconds[member] = self.seconds.get(member, 0.0) + seconds
