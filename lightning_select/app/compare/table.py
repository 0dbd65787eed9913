"""The table of a comparison, for the terminal and for its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_select.app.compare.judgement import Judgement
from lightning_select.app.compare.summary import Summary

__all__ = ["cells_of", "format_table", "heads_of"]


def heads_of(*, metric: str, final_metric: str, target: float | None) -> list[str]:
    """Headings of the columns."""
    goal = "target" if target is None else f"{metric} {target:.3g}"
    numbers = [final_metric, f"steps to {goal}", f"samples to {goal}", "rows/step", "flipped kept", "cost", "seconds"]
    return ["method", *numbers, "at equal steps", "at equal cost"]


def cells_of(line: Summary, judgement: Judgement | None) -> list[str]:
    """One line of the table: mean and standard deviation over seeds, medians of what it took to reach the target."""
    if not line.runs:
        return [line.method, "failed" if line.failed else "-", *["-"] * 8]
    words = ["-", "-"]
    if judgement is not None:
        words = ["-" if judgement.equal_steps is None else judgement.equal_steps.verdict]
        words.append("-" if judgement.equal_cost is None else judgement.verdict)
    return [
        line.method,
        _final(line),
        _to_target(line.steps_to_target, line),
        _to_target(line.samples_to_target, line),
        f"{line.rows_per_step:.1f}",
        "-" if line.flagged_share is None else f"{line.flagged_share:.1%}",
        "-" if line.relative_cost is None else f"{line.relative_cost:.2f}x",
        f"{line.seconds:.1f}",
        *words,
    ]


def format_table(
    lines: Sequence[Summary],
    judgements: Sequence[Judgement],
    notes: Mapping[str, str],
    *,
    metric: str,
    final_metric: str,
    target: float | None,
) -> str:
    """The table as text.

    Args:
        lines: One per method.
        judgements: What is said about the methods.
        notes: Something more about some of them, to be told below.
        metric: Name of the metric of the curves.
        final_metric: Name of the metric after training.
        target: Value of ``metric`` that was to be reached.
    """
    judged = {one.method: one for one in judgements}
    cells = [heads_of(metric=metric, final_metric=final_metric, target=target)]
    cells += [cells_of(line, judged.get(line.method)) for line in lines]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    rows = ["  ".join(_aligned(row[column], widths[column], column) for column in range(len(row))) for row in cells]
    rows.insert(1, "-" * len(rows[0]))
    told = [f"{line.method} failed in {_runs(len(line.failed))}: {line.failed[0]}" for line in lines if line.failed]
    told += [
        f"{line.method} ended at no finite {final_metric} in {line.not_finite} of {_runs(line.runs)}, which enter no "
        "mean and no interval"
        for line in lines
        if line.not_finite
    ]
    told += [f"{method} {note}" for method, note in notes.items()]
    return "\n".join(row.rstrip() for row in [*rows, *told])


def _final(line: Summary) -> str:
    """Mean and standard deviation of the final metric, and in how many runs it is no finite number."""
    mean = "-" if line.final_mean is None else f"{line.final_mean:.4f}"
    spread = "" if line.final_sd is None else f" ± {line.final_sd:.4f}"
    odd = f" ({line.not_finite} of {line.runs} not finite)" if line.not_finite else ""
    return f"{mean}{spread}{odd}"


def _to_target(median: float | None, line: Summary) -> str:
    """A median, and in how many runs the target was reached where not in all."""
    if median is None:
        return "-"
    partly = f" ({line.reached}/{line.runs})" if 0 < line.reached < line.runs else ""
    return f"{median:,.0f}{partly}" if math.isfinite(median) else f"never{partly}"


def _aligned(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
