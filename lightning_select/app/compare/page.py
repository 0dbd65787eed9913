"""The page of a comparison: verdicts, table, curves and intervals, in one file that needs nothing from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_select.app.compare.curves_svg import HEIGHT, WIDTH, legend_of, panels_of
from lightning_select.app.compare.findings import Finding
from lightning_select.app.compare.judgement import AXES, Judgement
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.summary import Summary
from lightning_select.app.compare.table import cells_of, heads_of
from lightning_select.app.compare.training import run_folder
from lightning_select.reports.page import environment

__all__ = ["Page", "render_page"]


@dataclass(frozen=True)
class Page:
    """What is shown.

    Attributes:
        lines: The table.
        judgements: What is said about the methods.
        runs: All runs.
        sentence: The verdict in one sentence.
        notes: Something more about some methods.
        higher: Is more of the final metric better?
        metric: Name of the metric of the curves.
        final_metric: Name of the metric after training.
        target: Value of ``metric`` that was to be reached.
    """

    lines: Sequence[Summary]
    judgements: Sequence[Judgement]
    runs: Sequence[Run]
    sentence: str
    notes: Mapping[str, str]
    higher: bool
    metric: str
    final_metric: str
    target: float | None


def render_page(page: Page, folder: Path, jobs: Sequence[Path] = ()) -> str:
    """The page as HTML.

    Args:
        page: What to show.
        folder: Where it will lie; reports of runs below it are linked.
        jobs: Folders of comparisons that it joins; reports below them are linked too.
    """
    names: dict[str, Any] = {"metric": page.metric, "final_metric": page.final_metric, "target": page.target}
    judged = {one.method: one for one in page.judgements}
    template = environment("app/compare/templates").get_template("compare.html")
    return template.render(
        page=page,
        heads=heads_of(**names),
        rows=[cells_of(line, judged.get(line.method)) for line in page.lines],
        verdicts=[_verdict(one, page.final_metric) for one in page.judgements],
        intervals=[row for one in page.judgements for row in _rows(one, page.final_metric)],
        panels=panels_of(page.runs, page.target),
        legend=legend_of(page.runs),
        size=(WIDTH, HEIGHT),
        failures=[run for run in page.runs if run.error],
        links=_links(page.runs, folder, jobs),
        seeds=len({run.seed for run in page.runs}),
    )


def _verdict(judgement: Judgement, final_metric: str) -> dict[str, Any]:
    """A method, its word, and the evidence at equal cost and at equal steps."""
    parts = []
    for name, against in (("at equal cost", judgement.equal_cost), ("at equal steps", judgement.equal_steps)):
        if against is None:
            parts.append((name, "was not run", ""))
            continue
        told = [f"final {final_metric} {against.final.numbers}" if against.final.numbers else ""]
        if against.axes:
            numbers = against.axes[against.judged].numbers
            told.append(f"to the target {numbers}" if numbers else "")
        parts.append((f"{name}, against {against.baseline}", against.verdict, "; ".join(filter(None, told))))
    return {"method": judgement.method, "word": judgement.verdict, "parts": parts}


def _rows(judgement: Judgement, final_metric: str) -> list[list[str]]:
    """Rows of the table of intervals: method, baseline, respect, mean, interval, word."""
    rows = []
    for against in judgement.comparisons:
        respects = {f"final {final_metric}, difference": against.final}
        respects |= {f"{AXES[axis]} to target, ratio": finding for axis, finding in against.axes.items()}
        rows += [[judgement.method, against.baseline, name, *_numbers(one), one.word] for name, one in respects.items()]
    return rows


def _numbers(finding: Finding) -> tuple[str, str]:
    if finding.interval is None:
        return "-", finding.numbers or "-"
    return f"{finding.interval.mean:.3g}", f"{finding.interval.low:.3g} to {finding.interval.high:.3g}"


def _links(runs: Sequence[Run], folder: Path, jobs: Sequence[Path]) -> list[tuple[str, str]]:
    """Reports of runs: what to call them, and where they lie from here."""
    links = []
    for run in runs:
        if run.error:
            continue
        places = [run_folder(place, run.method, run.seed) for place in (folder, *jobs)]
        files = [file for place in places for way in ("report.html", "*/report.html") for file in place.glob(way)]
        for file in sorted(files)[-1:]:  # a run that was started anew may have left an earlier one
            way = Path(os.path.relpath(file, folder)).as_posix()
            links.append((f"{run.method}, seed {run.seed}", quote(way)))
    return links
