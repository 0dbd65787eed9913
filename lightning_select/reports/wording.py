"""Numbers as a reader wants them: rounded, grouped, with their unit."""

from __future__ import annotations

import math

__all__ = ["count", "cut", "number", "rows_of", "seconds", "share"]

SPACE = "\u00a0"
"""Keeps a number and its unit on one line."""


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{int(value):,}"


def rows_of(value: float) -> str:
    """So many rows."""
    return f"{count(value)} row{'' if int(value) == 1 else 's'}"


def number(value: float) -> str:
    """Three significant digits; what is not finite is unknown."""
    value = float(value)
    if not math.isfinite(value):
        return "unknown"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    # Rounded first, so that 999.9 does not become 1e+03.
    value = float(f"{value:.3g}")
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def share(part: float) -> str:
    """A share as a percentage; only nothing is 0 % and only everything is 100 %."""
    percent = 100 * float(part)
    if not math.isfinite(percent):
        return "unknown"
    if percent != 0 and abs(percent) < 0.1:
        text = f"{percent:.1g}" if abs(percent) >= 0.001 else "under 0.001"
    elif 99.95 <= percent < 100:
        text = "over 99.9"
    else:
        text = f"{percent:.0f}" if percent in (0, 100) else f"{percent:.1f}"
    return f"{text}{SPACE}%"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    value = float(value)
    if not math.isfinite(value):
        return "unknown"
    if value < 60:
        return f"{number(value)}{SPACE}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}{SPACE}h {minutes}{SPACE}min" if hours else f"{minutes}{SPACE}min {rest}{SPACE}s"


def cut(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
