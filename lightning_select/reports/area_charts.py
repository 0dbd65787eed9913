"""Charts of shares: over two axes at once, of classes before and after, of a whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_select.reports.drawing import Drawing
from lightning_select.reports.figures import DataTable, Figure
from lightning_select.reports.scales import HEIGHT, WIDTH, Frame
from lightning_select.reports.wording import cut, seconds, share

__all__ = ["heat_map", "paired_bars", "stacked_bar"]

NAME_LENGTH = 16
LINE = 30.0


def heat_map(
    title: str, text: str, shares: NDArray[np.floating], lines: Sequence[str], columns: Sequence[str], axis: str
) -> Figure:
    """Shares by two groupings; the darker, the larger. What is unknown stays empty.

    Args:
        title: What it shows.
        text: How to read it.
        shares: Values in [0, 1], shape (lines, columns).
        lines: Names of the lines, from the bottom to the top.
        columns: Names of the columns, from left to right.
        axis: What the columns are.
    """
    most = float(np.nanmax(shares)) if np.isfinite(shares).any() else 0.0
    label = f"{title}. From left to right {columns[0]} to {columns[-1]}, the darkest cell is {share(most)}."
    frame = Frame(left=86.0, top=10.0)
    drawing = Drawing(WIDTH, HEIGHT, label)
    high, wide = (frame.bottom - frame.top) / len(lines), (frame.right - frame.left) / len(columns)
    gap = 1.0 if wide > 4 else 0.0
    for line, name in enumerate(lines):
        top = frame.bottom - (line + 1) * high
        drawing.words((frame.left - 5, top + high / 2 + 4), name, "end")
        for column, period in enumerate(columns):
            value = float(shares[line, column])
            corner = (frame.left + column * wide, top)
            if np.isfinite(value):
                drawing.box(corner, wide - gap, high - 1, "cell base")
                tip = f"{name}, {period}: {share(value)}"
                drawing.box(corner, wide - gap, high - 1, "cell", tip=tip, shade=value / most if most else 0.0)
    for place, anchor, name in ((frame.left, "", columns[0]), (frame.right, "end", columns[-1])):
        if anchor == "" or len(columns) > 1:
            drawing.words((place, frame.bottom + 15), cut(name, NAME_LENGTH), anchor)
    drawing.words((frame.right, HEIGHT - 5), axis, "name end")
    head = ("", *columns)
    rows = tuple((name, *(share(value) for value in shares[line])) for line, name in enumerate(lines))
    keys = (("cell light", f"0{chr(160)}%"), ("cell", share(most)))
    return Figure(title, text, drawing.html(), DataTable(title, head, rows[::-1]), keys)


def paired_bars(
    title: str, text: str, table: DataTable, shares: Sequence[tuple[str, float, float]], keys: tuple[str, str]
) -> Figure:
    """Two horizontal bars for each name.

    Args:
        title: What it shows.
        text: How to read it.
        table: The numbers in full.
        shares: Name, first share and second share of each line, from the top.
        keys: What the first and the second share are.
    """
    most = max(max(first, second) for _, first, second in shares) or 1.0
    height = LINE * len(shares) + 6
    largest = max(shares, key=lambda one: abs(one[2] - one[1]))
    moved = f"The largest change is that of {largest[0]}: {share(largest[1])} and {share(largest[2])}."
    left, right = 104.0, WIDTH - 52
    drawing = Drawing(WIDTH, height, f"{title}: {keys[0]} and {keys[1]}. {moved}")
    for line, (name, first, second) in enumerate(shares):
        top = 4 + LINE * line
        drawing.words((left - 6, top + 15), cut(name, NAME_LENGTH), "end")
        for place, (value, style) in enumerate(((first, "bar before"), (second, "bar"))):
            wide = (right - left) * value / most
            drawing.box((left, top + 11 * place), wide, 10, style, tip=f"{name}, {keys[place]}: {share(value)}")
            drawing.words((left + wide + 4, top + 11 * place + 9), share(value), "small")
    return Figure(title, text, drawing.html(), table, (("bar before", keys[0]), ("bar", keys[1])))


def stacked_bar(title: str, text: str, parts: Sequence[tuple[str, str, float]]) -> Figure:
    """The parts of a duration side by side.

    Args:
        title: What it shows.
        text: How to read it.
        parts: Name, style and seconds of each part, from the left; at least one is above zero.
    """
    whole = sum(value for *_, value in parts)
    words = [f"{name} {seconds(value)} ({share(value / whole)})" for name, _, value in parts]
    drawing = Drawing(WIDTH, 36, f"{title}: {', '.join(words)}.")
    left = 0.0
    for (_, style, value), tip in zip(parts, words, strict=True):
        wide = WIDTH * value / whole
        drawing.box((left, 4), wide - (1.5 if wide > 3 else 0), 28, style, tip=tip)
        left += wide
    rows = tuple((name, seconds(value), share(value / whole)) for name, _, value in parts)
    keys = tuple((style, text) for (_, style, _), text in zip(parts, words, strict=True))
    return Figure(title, text, drawing.html(), DataTable(title, ("part", "time", "share"), rows), keys)
