from __future__ import annotations

import html.parser
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_select.app.compare.curves_svg import HEIGHT, WIDTH, panels_of
from lightning_select.app.compare.judgement import judge
from lightning_select.app.compare.page import Page, render_page
from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.reporting import partners_of
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.summary import outcomes_of, summarise
from lightning_select.app.compare.training import run_folder

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "line", "polyline", "br"}


def curve(scale: float) -> tuple[Point, ...]:
    return tuple(Point(at, 8 * at, 0.1 * at, 1 - scale / at, 8 * at) for at in (1, 2, 5, 10, 20))


RUNS = [
    *(Run("uniform", s, final=0.80 + s / 100, samples=160, trained=160, steps=20, points=curve(0.9)) for s in range(3)),
    *(
        Run("a", s, final=0.85 + s**2 / 100, samples=640, trained=160, steps=20, points=curve(0.7 + s / 9))
        for s in range(3)
    ),
    *(
        Run("uniform (cost of a)", s, final=0.83 + s / 90, samples=320, trained=320, points=curve(0.8))
        for s in range(3)
    ),
    Run(EVIL, 0, error=f"RuntimeError: {EVIL} & more"),
]


def render(runs: list[Run], folder: Path, target: float | None = 0.8, sentence: str = "Verdict: x.") -> str:
    outcomes = outcomes_of(runs, target, higher=True)
    judgements = judge(outcomes, partners_of(runs), target=target, higher=True)
    lines = summarise(runs, target, higher=True)
    names: dict[str, Any] = {"metric": "val/acc", "final_metric": "test/acc", "target": target}
    return render_page(Page(lines, judgements, runs, sentence, {EVIL: "stopped"}, higher=True, **names), folder)


class Reader(html.parser.HTMLParser):
    """Tags that are opened are closed in order; what they are and hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = render(RUNS, tmp_path)
    page = Reader(text)
    assert page.open == []
    names = [name for name, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object"} & set(names)
    assert all("src" not in attributes for _, attributes in page.tags)
    assert [of["href"] for name, of in page.tags if name == "a"] == ["table.csv", "intervals.csv"]
    assert not re.search(r"https?://|@import|url\(|\bon\w+=", text)
    assert text.startswith("<!DOCTYPE html>")
    assert dict(page.tags[0][1]) == {"lang": "en"}
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_tables_and_pictures_say_what_they_are(tmp_path: Path) -> None:
    page = Reader(render(RUNS, tmp_path))
    names = [name for name, _ in page.tags]
    assert names.count("caption") == names.count("table") == 2
    assert all(of.get("scope") in ("col", "row") for name, of in page.tags if name == "th")
    pictures = [of for name, of in page.tags if name == "svg" and of.get("role") == "img"]
    assert len(pictures) == 4
    assert all(of["aria-label"] for of in pictures)
    assert all(of.get("aria-hidden") for name, of in page.tags if name == "svg" and of not in pictures)
    scrolled = [of for name, of in page.tags if of.get("class") == "wide"]
    assert all(of["tabindex"] == "0" and of["aria-labelledby"] for of in scrolled)
    ids = [of["id"] for _, of in page.tags if "id" in of]
    assert len(ids) == len(set(ids))


def test_names_and_errors_are_escaped(tmp_path: Path) -> None:
    text = render(RUNS, tmp_path, sentence=EVIL)
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;, seed 0: RuntimeError: &lt;script&gt;" in text
    assert "&amp; more" in text


def test_verdicts_intervals_and_failures_are_there(tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", render(RUNS, tmp_path))
    assert "Verdict: x." in text
    assert "<strong>a</strong>" in text
    assert re.search(
        r"at equal cost, against uniform \(cost of a\): (helps|hurts|no evidence) \(final test/acc by ", text
    )
    assert re.search(r"at equal steps, against uniform: (helps|hurts|no evidence) \(final test/acc by \+0\.0", text)
    assert '<td class="text">compute to target, ratio</td>' in text
    assert "Runs that failed" in text
    assert "3 seeds; on each" in text


def test_reports_of_runs_are_linked(tmp_path: Path) -> None:
    baseline = run_folder(tmp_path, "uniform (cost of a)", 2)
    for place in (tmp_path / "reports" / "a-1", baseline / "selection_report", baseline / "selection_report_1"):
        place.mkdir(parents=True)
        (place / "report.html").write_text("<p>")
    text = render(RUNS, tmp_path)
    assert '<a href="reports/a-1/report.html">a, seed 1</a>' in text
    way = f"reports/{baseline.name}/selection_report_1/report.html"
    assert f'<a href="{way}">uniform (cost of a), seed 2</a>' in text
    assert text.count("/report.html") == 2


def test_each_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    names = ["uds a", "uds+a", "uds_a", "uds a ", "a/b", "..", "uniform (cost of a)"]
    folders = {run_folder(tmp_path, name, seed) for name in names for seed in range(2)}
    assert len(folders) == 2 * len(names)
    assert run_folder(tmp_path, "uds_a", 0) == tmp_path / "reports" / "uds_a-0"
    assert all(re.fullmatch(r"[\w.=-]+", folder.name) and folder.parent.parent == tmp_path for folder in folders)


@pytest.mark.parametrize("runs", [RUNS[:1], RUNS[-1:], [*RUNS[:1], Run("a", 0, error="no")]])
def test_there_may_be_little_to_show(runs: list[Run], tmp_path: Path) -> None:
    text = render(runs, tmp_path, target=None)
    assert Reader(text).open == []
    assert "There is nothing to compare yet" in text


def test_numbers_of_the_axes_lie_within_their_panel(tmp_path: Path) -> None:
    """Commas are half as wide as digits, which have 6 of the 11 units of their height."""
    points = (Point(1, 8, 0.1, 1234567.0, 8), Point(20000, 160000, 4000.0, 1234570.0, 160000))
    text = render([Run("uniform", 0, final=1.0, samples=160000, points=points)], tmp_path, target=None)
    numbers = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([^<]+)</text>', text)
    assert {"1,234,570", "20,000", "4,000"} <= {told for _, _, told in numbers}
    for place, anchor, told in numbers:
        width = 6 * len(told) - 3 * told.count(",")
        left = float(place) - width * {"end": 1, "middle": 0.5}[anchor]
        assert left >= 0
        assert left + width <= WIDTH


def test_curves_lie_within_their_panel() -> None:
    strange = [
        Run("uniform", 0, points=(Point(0, 0, 0.0, 1e9), Point(0, 0, 0.0, -1e9), Point(5, 5, 1e-9, float("nan")))),
        Run("flat", 0, points=(Point(1, 1, 1.0, 0.5, 1),) * 3),
    ]
    for runs in (RUNS, strange, strange[1:]):
        for panel in panels_of(runs, 0.7):
            places = [pair.split(",") for trace in panel.traces for pair in trace.points.split()]
            places += [(at, 20) for at, _ in panel.across] + [(60, at) for at, _ in panel.up]
            assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in places)
            assert len(panel.up) <= 8
            assert len(panel.across) <= 12
    assert panels_of([], 0.7) == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((0.97001, 0.97009), ["0.97002", "0.97004", "0.97006", "0.97008"]),
        ((1234567, 1234570), ["1,234,567", "1,234,568", "1,234,569", "1,234,570"]),
        ((0.5, 0.5), ["0.3", "0.4", "0.5", "0.6", "0.7"]),
    ],
)
def test_ticks_tell_neighbours_apart(values: tuple[float, float], names: list[str]) -> None:
    points = tuple(Point(step, 8 * step, 0.1 * step, value) for step, value in enumerate(values, start=1))
    panel = panels_of([Run("uniform", 0, points=points)], None)[0]
    assert [name for _, name in panel.up] == names
    heights = [at for at, _ in panel.up]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == len(heights)
