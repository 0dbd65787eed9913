"""What is told and written when a comparison ends, or is interrupted: table, curves, intervals, page and verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_select.app.compare.equal_cost import baselines_of
from lightning_select.app.compare.fairness import size_notes
from lightning_select.app.compare.judgement import AXES, Judgement, Partners, judge
from lightning_select.app.compare.page import Page, render_page
from lightning_select.app.compare.plot import plot_curves
from lightning_select.app.compare.runs import Run, write_csv, write_whole
from lightning_select.app.compare.summary import Summary, alike, outcomes_of, summarise, target_of
from lightning_select.app.compare.table import format_table
from lightning_select.app.compare.verdict import verdict
from lightning_select.app.console import complain, say
from lightning_select.errors import ConfigurationError

__all__ = ["Settings", "partners_of", "report"]


@dataclass(frozen=True)
class Settings:
    """How runs are looked at.

    Attributes:
        metric: Name of the metric of the curves.
        mode: ``max`` where more of it is better, or ``min``.
        target: Value to reach; ``None`` is 95 % of where uniform ends.
        notes: Something to be told about a method, by its name.
        final_mode: ``mode`` of the final metric; ``None`` where that is the same.
    """

    metric: str
    mode: str
    target: float | None
    notes: Mapping[str, str] = field(default_factory=dict)
    final_mode: str | None = None

    @property
    def higher(self) -> bool:
        """Is more of the metric of the curves better?"""
        return self.mode == "max"

    def higher_final(self, final_metric: str) -> bool:
        """Is more of the final metric better? That may be the last value of the curves."""
        own = None if final_metric == self.metric else self.final_mode
        return (own or self.mode) == "max"


def partners_of(runs: Sequence[Run]) -> dict[str, dict[int, str]]:
    """Name of uniform at equal cost, by method and seed, for the runs of one comparison."""
    names = baselines_of(runs)
    return {name: {run.seed: names[name] for run in runs if run.method == name} for name in names}


def report(
    runs: Sequence[Run],
    settings: Settings,
    folder: Path,
    partners: Partners | None = None,
    jobs: Sequence[Path] = (),
) -> None:
    """Tell the table and the verdict, and write the files; what cannot be written is told and keeps nothing else back.

    Args:
        runs: All runs, failed ones among them.
        settings: How to look at them.
        folder: Where the files go.
        partners: Who is compared with whom at equal cost; ``None`` finds out from the runs.
        jobs: Folders of comparisons whose runs these are, where they lie elsewhere.
    """
    higher = settings.higher
    partners = partners_of(runs) if partners is None else partners
    runs, final_metric = alike(runs, settings.metric)
    target = target_of(runs, settings.target, higher=higher)
    lines = summarise(runs, target, higher=higher)
    outcomes = outcomes_of(runs, target, higher=higher)
    higher_final = settings.higher_final(final_metric)
    judgements = judge(outcomes, partners, target=target, higher=higher_final)
    names: dict[str, Any] = {"metric": settings.metric, "final_metric": final_metric, "target": target}
    notes = size_notes(runs)
    notes |= {name: "; ".join([note, *filter(None, [notes.get(name)])]) for name, note in settings.notes.items()}
    say("\n" + format_table(lines, judgements, notes, **names))
    sentence = verdict(outcomes, judgements, **names)
    page = Page(lines, judgements, runs, sentence, notes, higher=higher_final, **names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_tables(lines, judgements, names, folder)
        drawn = _draw(runs, folder / "compare.png", settings.metric, target)
        write_whole(folder / "compare.html", render_page(page, folder, jobs))
        say(f"\nPage: {folder / 'compare.html'}")
        say(f"Curves: {folder / 'compare.png'}" if drawn else "No picture: it takes matplotlib and a finished run.")
        say(f"Numbers: {folder / 'table.csv'}, intervals.csv, runs.csv and curves.csv beside it")
    except (ConfigurationError, OSError) as error:
        complain(f"the report of the comparison was not written: {error}")
    say(sentence)


def _write_tables(
    lines: Sequence[Summary], judgements: Sequence[Judgement], names: Mapping[str, Any], folder: Path
) -> None:
    judged = {one.method: one for one in judgements}
    rows = []
    for line in lines:
        one = judged.get(line.method)
        steps, cost = (None, None) if one is None else (one.equal_steps, one.equal_cost)
        words = {
            "at_equal_steps": steps and steps.verdict,
            "at_equal_cost": one and cost and one.verdict,
            "equal_cost_baseline": cost and cost.baseline,
        }
        rows.append(asdict(line) | dict(names) | words)
    write_csv(folder / "table.csv", rows)
    found = [row for one in judgements for row in _intervals(one, names)]
    if found:
        write_csv(folder / "intervals.csv", found)


def _intervals(judgement: Judgement, names: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line per respect in which a method was compared."""
    return [
        {
            "method": judgement.method,
            "baseline": against.baseline,
            "seeds": len(against.seeds),
            "respect": respect,
            "mean": finding.interval and finding.interval.mean,
            "low": finding.interval and finding.interval.low,
            "high": finding.interval and finding.interval.high,
            "verdict": finding.word,
            "numbers": finding.numbers,
        }
        for against in judgement.comparisons
        for respect, finding in {
            f"difference in final {names['final_metric']}": against.final,
            **{f"ratio of {AXES[axis]} to target": one for axis, one in against.axes.items()},
        }.items()
    ]


def _draw(runs: Sequence[Run], file: Path, metric: str, target: float | None) -> bool:
    draft = file.with_name(f"draft_{file.name}")
    try:
        if not plot_curves(runs, draft, metric=metric, target=target):
            return False
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return True
