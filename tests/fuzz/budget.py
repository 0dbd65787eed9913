"""How many cases each of the fuzz tests tries: few in every run of the tests, and many where somebody asks for it.

``LIGHTNING_SELECT_FUZZ=10000`` shares so many cases among all of them, by what a case costs and what it may find.
"""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

__all__ = ["ASKED", "SHARES", "TRIED", "cases", "fuzz"]

ASKED = int(os.environ.get("LIGHTNING_SELECT_FUZZ", "0"))
"""Cases in all; 0 where nobody asked, and then each test tries the number that it names."""

SHARES: dict[str, float] = {}
"""What part of them each test tries."""

TRIED: collections.Counter[str] = collections.Counter()
"""How many each test has tried."""


def cases(share: float, quick: int) -> int:
    """Cases of a test that tries this part of all, or ``quick`` of them."""
    return quick if not ASKED else max(1, round(share * ASKED))


def fuzz(share: float, *, quick: int) -> Callable[[Callable[..., Any]], Any]:
    """Settings of a fuzz test, which goes below ``given``; what it tries is counted."""

    def decorate(test: Callable[..., Any]) -> Any:
        name = f"{test.__module__.rpartition('.')[2]}.{test.__name__}"
        SHARES[name] = share

        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> Any:
            TRIED[name] += 1
            return test(*args, **kwargs)

        slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
        return settings(max_examples=cases(share, quick), suppress_health_check=slow, deadline=None)(counted)

    return decorate
