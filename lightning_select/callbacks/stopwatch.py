"""Seconds that a piece of work takes on its device, measured without waiting for it."""

from __future__ import annotations

import time
from typing import Any

import torch

__all__ = ["Stopwatch"]


class Stopwatch:
    """Times the last run of a ``with`` block; on a CUDA device by events, which only `seconds` waits for."""

    def __init__(self) -> None:
        self._start: Any = 0.0
        self._stop: Any = 0.0
        self._device = torch.device("cpu")

    def on(self, device: torch.device) -> Stopwatch:
        """Time work on this device."""
        self._device = device
        return self

    def __enter__(self) -> Stopwatch:
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = self._now()

    def seconds(self) -> float:
        """Duration of the last block."""
        if isinstance(self._start, float):
            return self._stop - self._start
        self._stop.synchronize()
        return self._start.elapsed_time(self._stop) / 1000

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
