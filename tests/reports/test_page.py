from __future__ import annotations

import builtins
import dataclasses

import numpy as np
import pytest

from lightning_select.errors import ConfigurationError
from lightning_select.reports.page import render_page
from lightning_select.reports.report_data import Cost
from lightning_select.reports.timeline import Timeline
from lightning_select.reports.wording import count, number, share
from tests.reports import made_up
from tests.reports.parsed import Element, check, everything


def section(root: Element, anchor: str) -> Element:
    (found,) = [s for s in root.find("section") if s.attributes["id"] == anchor]
    return found


def cards(root: Element, anchor: str) -> list[Element]:
    return [card for grid in section(root, anchor).find("ul", **{"class": "cards"}) for card in grid.children]


def row_of(card: Element) -> int:
    return int(card.find("p", **{"class": "row"})[0].words().removeprefix("Row ").replace(",", ""))


def fact(card: Element, name: str) -> str:
    pairs = card.find("dl", **{"class": "measures"})[0].find("div")
    return {pair.find("dt")[0].words(): pair.find("dd")[0].words() for pair in pairs}[name]


def key_figure(root: Element, name: str) -> list[str]:
    for pair in section(root, "summary").find("div"):
        if pair.find("dt")[0].words() == name:
            return [value.words() for value in pair.find("dd")]
    raise AssertionError(name)


@pytest.fixture(scope="module")
def report():
    return made_up.report()


@pytest.fixture(scope="module")
def root(report):
    return check(render_page(report))


def test_the_parts_of_the_page(root, report):
    assert [s.attributes["id"] for s in root.find("main")[0].children if s.tag == "section"] == [
        *("summary", "chosen", "course", "overlap", "shares", "rows", "cost", "glossary")
    ]
    assert root.find("h1")[0].words() == report.title == root.find("title")[0].words()
    facts = root.find("dl", **{"class": "facts"})[0].words()
    assert all(f"{name} {value}" in facts for name, value in report.facts)
    assert len(root.find("svg", role="img")) == 8


def test_the_summary_counts_what_a_loop_counts(root, report):
    table = report.table
    offered = sum(int(many) for many in table.offered)
    chosen = sum(int(many) for many in table.chosen)
    never = sum(1 for row in range(table.rows) if table.offered[row] > 0 and table.chosen[row] == 0)
    assert key_figure(root, "Rows")[0] == count(table.rows)
    assert key_figure(root, "Trained on")[0] == share(chosen / offered).replace("\u00a0", " ")
    assert f"{offered:,} rows" in key_figure(root, "Trained on")[1]
    assert key_figure(root, "Never trained on")[0] == str(never)
    assert key_figure(root, "Likely mislabelled")[0] == "50"
    assert key_figure(root, "Time on selection") == ["15.4 %", "1 min 4 s of 6 min 52 s of training."]


def test_how_often_rows_were_chosen(root, report):
    (first, *_) = section(root, "chosen").find("table")
    for name, many, part in first.rows()[1:]:
        rows = sum(1 for times in report.table.chosen if times == int(name))
        assert (many, part) == (str(rows), share(rows / report.table.rows).replace("\u00a0", " "))


def test_the_map_of_difficulty(root, report):
    table = report.table
    order = sorted(range(table.rows), key=lambda row: table.loss[row])
    found = section(root, "chosen").find("table")[1].rows()
    assert found[0] == ["", *table.periods]
    tenth = table.rows // 10
    for line, rows in ((found[1], order[-tenth:]), (found[-1], order[:tenth])):
        for period, text in enumerate(line[1:]):
            part = sum(table.chosen_in[row, period] > 0 for row in rows) / tenth
            assert text == share(part).replace("\u00a0", " ")
    assert (found[1][0], found[-1][0]) == ("hardest", "easiest")


def test_the_overlap_of_periods(root, report):
    table = report.table
    for place, line in enumerate(section(root, "overlap").find("table")[0].rows()[1:]):
        first = {row for row in range(table.rows) if table.chosen_in[row, place]}
        second = {row for row in range(table.rows) if table.chosen_in[row, place + 1]}
        again, chance = len(first & second) / len(first), len(second) / table.rows
        expected = [str(len(first)), share(again), share(chance), f"{again / chance:.2f}"]
        assert line[1:] == [text.replace("\u00a0", " ") for text in expected]
        assert line[0] == f"epoch {place + 1}, then epoch {place + 2}"


def test_the_shares_of_classes(root, report):
    table = report.table
    for line in section(root, "shares").find("table")[0].rows()[1:]:
        rows = [row for row in range(table.rows) if table.class_name(int(table.label[row])) == line[0]]
        kept = sum(int(table.chosen[row]) for row in rows) / int(table.chosen.sum())
        offered = sum(int(table.offered[row]) for row in rows) / int(table.offered.sum())
        expected = [str(len(rows)), share(len(rows) / table.rows), share(offered), share(kept)]
        assert line[1:5] == [text.replace("\u00a0", " ") for text in expected]
        assert line[5] == f"{100 * (kept - offered):+.2f} points"


def test_suspects_come_with_their_evidence(root, report):
    shown = cards(root, "mislabelled")
    assert [row_of(card) for card in shown] == report.suspects.ids[:40].tolist()
    for place, card in enumerate(shown):
        row, table = row_of(card), report.table
        label, other = table.class_name(int(table.label[row])), table.class_name(int(table.suggestion[row]))
        assert card.find("p", **{"class": "headline"})[0].words() == f"{label} → {other}"
        assert card.find("p", **{"class": "evidence"})[0].words() == report.suspects.evidence[place]
        assert fact(card, "suspicion") == number(report.suspects.scores[place])
        assert card.find("img")[0].attributes["alt"] == f"Row {row}: image of 32 x 32 pixels"


def test_hardest_never_chosen_and_forgotten(root, report):
    table = report.table
    rows = range(table.rows)
    hardest = sorted(rows, key=lambda row: -table.loss[row])[:20]
    never = sorted((row for row in rows if table.chosen[row] == 0), key=lambda row: -table.score[row])[:20]
    forgotten = sorted(rows, key=lambda row: (-table.forgettings[row], -table.loss[row]))[:20]
    assert [row_of(card) for card in cards(root, "hardest")] == hardest
    assert [row_of(card) for card in cards(root, "never")] == never
    assert [row_of(card) for card in cards(root, "forgotten")] == forgotten
    first = cards(root, "hardest")[0]
    assert fact(first, "loss") == number(table.loss[hardest[0]])
    assert fact(first, "trained on") == f"{table.chosen[hardest[0]]} of {table.offered[hardest[0]]}"


def test_the_cost(root, report):
    lines = dict(line for line in section(root, "cost").find("table")[1].rows()[1:])
    assert lines["Optimiser steps"] == "960"
    assert lines["Rows offered in batches"] == count(report.cost.offered)
    assert lines["Rows trained on per second"] == count(report.cost.trained / 412)
    parts = {line[0]: line[2] for line in section(root, "cost").find("table")[0].rows()[1:]}
    assert parts == {
        name: share(part / 412).replace("\u00a0", " ")
        for name, part in (("training", 412 - 63.5 - 2.25), ("selection", 63.5), ("this record", 2.25))
    }


EMPTY = Timeline.empty()
NOTHING = Cost(0.0, 0.0, 0.0, 0, 0, 0)


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("periods", [0, 1, 2])
@pytest.mark.parametrize("times", [0, 1])
@pytest.mark.parametrize("line", [EMPTY, made_up.timeline(1), made_up.timeline(3, scored=False, keep=1.0)])
def test_runs_of_which_little_is_known(rows, periods, times, line):
    table = made_up.unknown(rows, periods=periods, times=times)
    root = check(render_page(made_up.report(table, suspects=None, cost=NOTHING, timeline=line)))
    assert key_figure(root, "Likely mislabelled")[0] == "unknown"
    assert key_figure(root, "Time on selection")[0] == "unknown"
    for anchor in (
        "chosen",
        "course",
        "overlap",
        "shares",
        "rows",
        "cost",
        "mislabelled",
        "hardest",
        "never",
        "forgotten",
    ):
        found = section(root, anchor)
        assert found.find("p") or found.find("figure")


@pytest.mark.parametrize(
    ("anchor", "reason"),
    [
        ("chosen", "No loss of any row was read, so rows cannot be told apart by how hard they are."),
        ("course", "No score was made: nothing in this run scores rows, as BatchSelection does."),
        ("overlap", "The run has fewer than two periods, so there is nothing to compare."),
        ("shares", "Classes: none are known for these rows."),
        ("mislabelled", "Nothing can be said: the run showed too little of labels, logits and losses."),
        ("hardest", "No loss of any row was read."),
        ("never", "Every row that was offered was trained on."),
        ("forgotten", "It is not known which rows the model classified right."),
        ("cost", "No time was measured, so it is not known what selection cost."),
    ],
)
def test_a_part_without_data_says_why(anchor, reason):
    table = made_up.unknown(5, periods=1, times=2)
    line = made_up.timeline(5, scored=False, keep=1.0)
    root = check(render_page(made_up.report(table, suspects=None, cost=NOTHING, timeline=line)))
    assert reason in section(root, anchor).words()


def test_a_uniform_run_and_a_run_of_a_sampler():
    table = made_up.table(300, 3)
    sampler = dataclasses.replace(table, offered=table.chosen)
    root = check(render_page(made_up.report(sampler, timeline=made_up.timeline(9, scored=False, keep=1.0))))
    assert key_figure(root, "Trained on")[0] == "100 %"
    assert "Every row of every recorded batch was trained on." in section(root, "course").words()
    assert "Shares of the classes in the dataset, and among the rows trained on." in section(root, "shares").words()
    assert cards(root, "never") == []
    weighted = dataclasses.replace(table, weight=np.where(table.chosen > 0, table.loss, np.nan).astype(np.float32))
    found = section(check(render_page(made_up.report(weighted))), "chosen").find("table")
    assert "Mean weight" in found[-1].find("caption")[0].words()


def test_many_classes_are_cut_to_those_that_moved_most():
    table = made_up.table(3000, 4, classes=60)
    root = check(render_page(made_up.report(table)))
    found = section(root, "shares")
    assert "Of 60 classes, the 20 whose share changed most are shown." in found.words()
    points = [abs(float(line[-1].removesuffix(" points"))) for line in found.find("table")[0].rows()[1:]]
    assert len(points) == 20
    assert points == sorted(points, reverse=True)


NASTY = (
    "</script></style></svg><script>alert('x')</script><img src=x onerror=alert(1)>\"' {{ 7 * 7 }} \x00\x1b\ud800\u202e"
)


def test_nothing_in_the_data_becomes_markup():
    table = dataclasses.replace(
        made_up.table(), class_names=(NASTY,) * 10, group_names=(NASTY,) * 3, periods=(NASTY,) * 6
    )
    suspects = made_up.suspects(table)
    suspects = dataclasses.replace(suspects, evidence=(NASTY,) * 60, basis=NASTY)
    rows = [NASTY, {NASTY: NASTY}, (NASTY, 1), [NASTY], NASTY.encode("utf-8", "replace"), {NASTY: np.zeros((4, 4))}]

    def show(row):
        if row % 7 == 6:
            raise ValueError(NASTY)
        return rows[row % 7]

    report = made_up.report(table, show=show, title=NASTY, notices=(NASTY,), facts=((NASTY, NASTY),), suspects=suspects)
    page = render_page(report)
    tags = {element.tag for element in everything(check(page))}
    assert "script" not in tags
    assert "49" not in check(page).find("h1")[0].words()
    assert "\x00" not in page
    assert "\x1b" not in page
    assert "\\ud800" in page
    page.encode("utf-8")


def test_rows_that_cannot_be_shown_are_named():
    def show(row):
        raise OSError(f"no file {row}.png")

    root = check(render_page(made_up.report(show=show)))
    assert "This row could not be read." in section(root, "mislabelled").words()
    assert len(cards(root, "mislabelled")) == 40


def test_each_row_is_asked_for_once():
    asked: list[int] = []
    render_page(made_up.report(show=asked.append))
    assert len(asked) == len(set(asked))
    assert len(asked) <= 100
    assert all(type(row) is int for row in asked)


def test_two_hundred_thousand_rows_make_no_larger_page():
    page = render_page(made_up.report(made_up.table(200_000, 16)))
    check(page)
    assert len(page) < 2_000_000


def test_pages_of_one_report_are_equal():
    assert render_page(made_up.report()) == render_page(made_up.report())


def test_without_jinja_the_error_names_the_extra(monkeypatch):
    find = builtins.__import__

    def missing(name, *rest):
        if name.startswith("jinja2"):
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigurationError, match=r"render_page must find jinja2.*lightning-select\[report\]"):
        render_page(made_up.report())
