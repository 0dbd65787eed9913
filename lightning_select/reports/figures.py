"""What a page is made of: figures, tables, lists of rows, sections."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_select.reports.drawing import Html
from lightning_select.reports.previews import Preview

__all__ = ["Card", "DataTable", "Figure", "RowList", "Section"]


@dataclass(frozen=True)
class DataTable:
    """A table; the first cell of each row is the header of that row.

    Attributes:
        caption: What it shows.
        head: Names of the columns.
        rows: Its cells.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A chart with the numbers that it shows.

    Attributes:
        title: What it shows.
        text: How to read it.
        drawing: The chart.
        table: Its numbers, or some of them.
        keys: Style and meaning of what is drawn.
    """

    title: str
    text: str
    drawing: Html
    table: DataTable
    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Card:
    """A row of the dataset.

    Attributes:
        row: Its number.
        preview: What it looks like.
        headline: What is said of it first; may be empty.
        evidence: What speaks for that; may be empty.
        facts: Names and values.
    """

    row: int
    preview: Preview
    headline: str
    evidence: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RowList:
    """Rows of the dataset that have something in common.

    Attributes:
        anchor: Its name in the page.
        title: What they have in common.
        text: How they were found, or why there are none.
        first: The ones to show.
        more: The ones to show on demand.
    """

    anchor: str
    title: str
    text: str
    first: tuple[Card, ...] = ()
    more: tuple[Card, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Its name in the page.
        title: Its heading.
        text: Paragraphs.
        figures: Charts.
        tables: Tables.
        lists: Lists of rows.
        terms: Words and what they mean.
    """

    anchor: str
    title: str
    text: tuple[str, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[DataTable, ...] = ()
    lists: tuple[RowList, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()
