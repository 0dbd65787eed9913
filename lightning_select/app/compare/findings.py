"""How a method compares with a kind of uniform training in one respect, seed by seed.

What it took to reach the target (steps, rows, compute, seconds) is compared by its ratio, the mean of the logarithms'
differences; the final metric by its difference. The rules, in this order:

1. Fewer than two common seeds: no evidence. The same for a final metric that is no finite number in some common runs;
   where that is so in all runs of one of the two and in none of the other, the latter is better, from three seeds on.
2. One of the two reaches the target in all common runs and the other in none: that one is better, from three common
   seeds on (with fewer it happens by chance in more than 5 % of the cases).
3. One of the two does not reach the target in all common runs: no evidence.
4. The paired interval (`intervals`) lies on one side of "no difference": better or worse. It
   covers it: no evidence.
5. Differences that are the same on all seeds come from a metric of few values, and their spread cannot be told: no
   evidence.
6. Who is there at the first evaluation may have been there long before, and is therefore never worse in this respect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_select.app.compare.intervals import Interval, paired_interval
from lightning_select.app.compare.magnitude import is_finite

__all__ = ["Finding", "Pairs", "compare_finals", "compare_ratios"]

Pairs = Sequence[tuple[float, float]]
"""What the method and uniform came to, seed by seed."""

_SURE = 3
"""Seeds from which on "always against never" is evidence."""

_ROUNDING = 1e-9
"""Differences that differ by a smaller share are the same."""


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        kind: Is the method better or worse, or is there no evidence either way?
        numbers: The evidence in words.
        interval: Mean and interval of the difference, or of the ratio; ``None`` where there is none.
    """

    kind: Literal["better", "worse", "unclear"]
    numbers: str = ""
    interval: Interval | None = None

    @property
    def word(self) -> str:
        """The same in the words of the table."""
        return {"better": "helps", "worse": "hurts", "unclear": "no evidence"}[self.kind]


def compare_ratios(pairs: Pairs, unit: str, level: float = 0.95, early: tuple[bool, bool] = (False, False)) -> Finding:
    """Compare positive numbers of which less is better and infinite is never.

    Args:
        pairs: The numbers.
        unit: What they are a multiple of, in words.
        level: Of the interval.
        early: Is one of the method's, or of uniform's, only the most that it may have been?
    """
    ours, theirs = ([math.isfinite(pair[side]) for pair in pairs] for side in (0, 1))
    if not any(ours + theirs) or len(pairs) < 2:
        return Finding("unclear", "neither gets there" if pairs and not any(ours + theirs) else "")
    sure = len(pairs) >= _SURE
    if all(ours) and not any(theirs):
        return Finding("better" if sure else "unclear", "which uniform never reaches")
    if all(theirs) and not any(ours):
        return Finding("worse" if sure else "unclear", "never gets there")
    if not (all(ours) and all(theirs)):
        return Finding("unclear", f"gets there in {sum(ours)} of {len(pairs)} runs, uniform in {sum(theirs)}")
    if any(min(pair) <= 0 for pair in pairs):  # there before the first step: no ratio
        return Finding("unclear")
    logarithms = paired_interval([math.log(one / other) for one, other in pairs], level)
    interval = Interval(*(math.exp(end) for end in (logarithms.low, logarithms.mean, logarithms.high)))
    numbers = f"{interval.mean:.2f} {unit}, {interval.low:.2f} to {interval.high:.2f}"
    spread = interval.high > interval.low * (1 + _ROUNDING)
    better, worse = interval.high < 1 and not early[1] and spread, interval.low > 1 and not early[0] and spread
    return Finding("better" if better else "worse" if worse else "unclear", numbers, interval)


def compare_finals(pairs: Pairs, *, higher: bool, level: float = 0.95) -> Finding:
    """Compare final metrics.

    Args:
        pairs: The metrics.
        higher: Is more better?
        level: Of the interval.
    """
    if len(pairs) < 2:
        return Finding("unclear")
    ours, theirs = (sum(is_finite(pair[side]) for pair in pairs) for side in (0, 1))
    if ours < len(pairs) or theirs < len(pairs):
        count = len(pairs)
        kind = {(count, 0): "better", (0, count): "worse"}.get((ours, theirs), "unclear")
        numbers = f"not finite in {count - ours} of {count} runs, uniform's in {count - theirs}"
        return Finding(kind if count >= _SURE else "unclear", numbers)  # type: ignore[arg-type]
    differences = [one - other for one, other in pairs]
    interval = paired_interval(differences, level)
    numbers = f"by {interval.mean:+.3g}, {interval.low:+.3g} to {interval.high:+.3g}"
    spread = max(differences) - min(differences) > _ROUNDING * max(map(abs, differences))
    above, below = interval.low > 0 and spread, interval.high < 0 and spread
    better, worse = (above, below) if higher else (below, above)
    return Finding("better" if better else "worse" if worse else "unclear", numbers, interval)
