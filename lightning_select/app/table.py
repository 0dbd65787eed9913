"""The table of a comparison, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_select.app.summary import Summary

__all__ = ["format_table"]


def format_table(lines: Sequence[Summary], *, metric: str, final_metric: str, target: float | None) -> str:
    """One line per method: mean and standard deviation over seeds, medians of what it took to reach the target."""
    goal = "target" if target is None else f"{metric} {target:.3g}"
    head = ["method", final_metric, f"steps to {goal}", f"samples to {goal}", "rows/step", "flipped kept", "seconds"]
    cells = [head, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    rows = [
        "  ".join(_aligned(text, width, column) for column, (text, width) in _columns(row, widths)) for row in cells
    ]
    rows.insert(1, "-" * len(rows[0]))
    notes = [f"{line.method} failed in {_runs(len(line.failed))}: {line.failed[0]}" for line in lines if line.failed]
    return "\n".join(row.rstrip() for row in [*rows, *notes])


def _cells(line: Summary) -> list[str]:
    if not line.runs:
        return [line.method, "failed", *["-"] * 5]
    spread = "" if line.final_sd is None else f" ± {line.final_sd:.4f}"
    share = "-" if line.flagged_share is None else f"{line.flagged_share:.1%}"
    return [
        line.method,
        f"{line.final_mean:.4f}{spread}",
        _to_target(line.steps_to_target, line),
        _to_target(line.samples_to_target, line),
        f"{line.rows_per_step:.1f}",
        share,
        f"{line.seconds:.1f}",
    ]


def _to_target(median: float | None, line: Summary) -> str:
    """A median, and in how many runs the target was reached where not in all."""
    if median is None:
        return "-"
    partly = f" ({line.reached}/{line.runs})" if 0 < line.reached < line.runs else ""
    return f"{median:,.0f}{partly}" if math.isfinite(median) else f"never{partly}"


def _columns(row: Sequence[str], widths: Sequence[int]) -> list[tuple[int, tuple[str, int]]]:
    return list(enumerate(zip(row, widths, strict=True)))


def _aligned(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
