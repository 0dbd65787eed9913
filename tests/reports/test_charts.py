from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_select.reports.area_charts import heat_map, paired_bars, stacked_bar
from lightning_select.reports.charts import Bin, band_chart, histogram, line_chart
from lightning_select.reports.drawing import Drawing
from lightning_select.reports.figures import DataTable
from lightning_select.reports.scales import HEIGHT, WIDTH, Frame, Scale, scale_of
from tests.reports.parsed import Element, everything, parsed

FRAME = Frame()


def drawn(figure) -> Element:
    """The drawing of a figure; each number in it is finite and lies in the view."""
    (svg,) = parsed(str(figure.drawing)).children
    _, _, width, height = map(float, svg.attributes["viewbox"].split())
    for element in everything(svg):
        for name, value in element.attributes.items():
            if name in {"x", "y", "width", "height", "cx", "cy"}:
                assert -0.05 <= float(value) <= max(width, height) + 0.05, (element.tag, name, value)
        for x, y in points(element):
            assert -0.05 <= x <= width + 0.05
            assert -0.05 <= y <= height + 0.05
    return svg


def points(element: Element) -> list[tuple[float, float]]:
    found = re.findall(r"(-?[\d.]+) (-?[\d.]+)", element.attributes.get("d", ""))
    return [(float(x), float(y)) for x, y in found]


@given(st.floats(-1e37, 1e37), st.floats(1e-3, 1e37))
@example(9.986635692420709e33, 1.836430757428968e31)  # ticks on both sides of a power of ten
def test_ticks_are_round_and_inside(low, size):
    scale = scale_of(np.array([low, low + size]), 0, 100)
    ticks = scale.ticks(4)
    assert 1 <= len(ticks) <= 6
    room = 1e-6 * (scale.high - scale.low)
    assert all(scale.low - room <= value <= scale.high + room for value, _ in ticks)
    assert len({name for _, name in ticks}) == len(ticks) or size < 1e-5 * abs(low)


def test_ticks_against_known_ones():
    assert [name for _, name in Scale(0, 1, 0, 9).ticks(4)] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    assert [name for _, name in Scale(-3, 5400, 0, 9).ticks(4)] == ["0", "2,000", "4,000"]
    assert [name for _, name in Scale(2.3, 2.30008, 0, 9).ticks(5)] == [f"2.3000{n}" for n in range(0, 9, 2)]
    assert [name for _, name in Scale(0, 8e-7, 0, 9).ticks(4)] == ["0", "2e-07", "4e-07", "6e-07", "8e-07"]


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [0.0, 0.0], [np.inf, 2.0], [1e300, 1e300 * (1 + 1e-15)]])
def test_a_scale_of_what_has_no_width(values):
    scale = scale_of(np.array(values), 0, 100)
    assert scale.low < scale.high
    for value in values:
        if math.isfinite(value):
            assert 0 <= scale(value) <= 100


def test_a_drawing_escapes_what_it_says():
    drawing = Drawing(10, 10, '"><script>alert(1)</script>')
    drawing.words((1, 1), "</text><script>")
    drawing.box((0, 0), 1, 1, "bar", tip="<b>&")
    (svg,) = parsed(str(drawing.html())).children
    assert svg.attributes["aria-label"] == '"><script>alert(1)</script>'
    assert [element.tag for element in everything(svg)] == ["svg", "text", "rect", "title"]
    assert svg.find("title")[0].text.strip() == "<b>&"


def test_bands_go_through_their_values():
    steps = np.array([0, 10, 30])
    values = np.array([[0.0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [0, 0, 1, 1, 8]])
    figure = band_chart("Losses", steps, values, "loss")
    wide, middle, line = [
        e for e in drawn(figure).find("path") if "band" in e.attributes["class"] or "line" in e.attributes["class"]
    ]

    def place(row, column):
        x = FRAME.left + steps[row] / 30 * (FRAME.right - FRAME.left)
        y = FRAME.bottom - values[row, column] / 8 * (FRAME.bottom - FRAME.top)
        return pytest.approx((x, y), abs=0.06)

    assert points(line) == [place(0, 2), place(1, 2), place(2, 2)]
    assert points(wide) == [place(0, 4), place(1, 4), place(2, 4), place(2, 0), place(1, 0), place(0, 0)]
    assert points(middle) == [place(0, 3), place(1, 3), place(2, 3), place(2, 1), place(1, 1), place(0, 1)]
    assert figure.text == "The median is 2 at step 0 and 1 at step 30."
    assert figure.table.rows[1] == ("10", "1", "2", "3", "4", "5")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_curves_have_gaps_where_values_are_unknown(bad):
    shares = np.array([0.5, 0.4, bad, 0.3, bad, 0.2, 0.1, 0.1])
    svg = drawn(line_chart("Kept", np.arange(8), shares, "kept"))
    assert [len(points(path)) for path in svg.find("path", **{"class": "line"})] == [2, 3]
    assert len(svg.find("circle", **{"class": "dot"})) == 1


@pytest.mark.parametrize("rows", [0, 1, 2, 500])
@pytest.mark.parametrize("fill", [np.nan, 0.0, -5.0, 3e38])
def test_curves_of_any_length(rows, fill):
    figure = band_chart("Scores", np.arange(rows) * 7, np.full((rows, 5), fill), "score")
    drawn(figure)
    assert len(figure.table.rows) == min(rows, 12)
    if rows > 1:
        assert (figure.table.rows[0][0], figure.table.rows[-1][0]) == ("0", f"{(rows - 1) * 7:,}")


def test_bars_are_as_tall_as_their_counts():
    bins = (Bin(0, 0, 30), Bin(1, 1, 60), Bin(2, 5, 15))
    svg = drawn(histogram("Often", "words", bins, "times chosen"))
    heights = [float(box.attributes["height"]) for box in svg.find("rect", **{"class": "bar"})]
    assert heights == pytest.approx([value * (FRAME.bottom - FRAME.top) / 60 for value in (30, 60, 15)], abs=0.06)
    assert [box.find("title")[0].text.strip() for box in svg.find("rect")] == [
        "0 times chosen: 30 rows",
        "1 times chosen: 60 rows",
        "2 to 5 times chosen: 15 rows",
    ]
    assert len(svg.find("rect", **{"class": "none"})) == 1
    assert svg.attributes["aria-label"] == "Often. 105 rows in all; the tallest bar is 1, with 60 rows."


def test_a_histogram_without_rows_and_one_with_many_bins():
    drawn(histogram("Often", "", (Bin(0, 0, 0),), "times"))
    many = tuple(Bin(n * 1000, n * 1000 + 999, n) for n in range(200))
    names = [text.words() for text in drawn(histogram("Often", "", many, "times")).find("text")]
    assert 2 <= sum("to" in name for name in names) < 10


def test_cells_are_as_dark_as_their_shares():
    shares = np.array([[0.0, 0.1, np.nan], [0.4, 0.2, 0.3]])
    figure = heat_map("Map", "words", shares, ["easy", "hard"], ["e1", "e2", "e3"], "epoch")
    cells = [box for box in drawn(figure).find("rect") if box.find("title")]
    shades = {box.find("title")[0].text.strip(): float(box.attributes.get("fill-opacity", 1)) for box in cells}
    space = chr(160)
    assert shades == {
        f"easy, e1: 0{space}%": 0.0,
        f"easy, e2: 10.0{space}%": 0.25,
        f"hard, e1: 40.0{space}%": 1.0,
        f"hard, e2: 20.0{space}%": 0.5,
        f"hard, e3: 30.0{space}%": 0.75,
    }
    assert figure.table.rows[0] == ("hard", f"40.0{space}%", f"20.0{space}%", f"30.0{space}%")
    assert figure.table.rows[1][3] == "unknown"


@pytest.mark.parametrize("shape", [(1, 1), (10, 1), (10, 500), (2, 40)])
@pytest.mark.parametrize("fill", [0.0, 1.0, np.nan])
def test_maps_of_any_size(shape, fill):
    lines, columns = [f"line {n}" for n in range(shape[0])], [f"epochs {n}-{n + 1}" for n in range(shape[1])]
    drawn(heat_map("Map", "", np.full(shape, fill), lines, columns, "epoch"))


def test_bars_are_as_long_as_their_shares():
    shares = [("cat", 0.4, 0.2), ("dog<b>", 0.0, 0.8)]
    figure = paired_bars("Shares", "", DataTable("", (), ()), shares, ("offered", "kept"))
    wide = [float(box.attributes["width"]) for box in drawn(figure).find("rect")]
    assert wide == pytest.approx([part * (WIDTH - 52 - 104) for part in (0.5, 0.25, 0.0, 1.0)], abs=0.06)
    assert "largest change is that of dog<b>" in drawn(figure).attributes["aria-label"]


def test_parts_of_a_whole():
    figure = stacked_bar(
        "Time", "", [("training", "bar", 75.0), ("selection", "bar before", 25.0), ("rest", "bar", 0.0)]
    )
    wide = [float(box.attributes["width"]) for box in drawn(figure).find("rect")]
    assert wide == pytest.approx([0.75 * WIDTH - 1.5, 0.25 * WIDTH - 1.5, 0], abs=0.06)
    space = chr(160)
    assert drawn(figure).attributes["aria-label"] == (
        f"Time: training 1{space}min 15{space}s (75.0{space}%), selection 25{space}s (25.0{space}%), "
        f"rest 0{space}s (0{space}%)."
    )


def test_the_view_is_that_of_the_frame():
    assert FRAME.left < FRAME.right <= WIDTH
    assert FRAME.top < FRAME.bottom <= HEIGHT
