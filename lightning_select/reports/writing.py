"""A report as files: the page, and a table of all rows."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lightning_select.reports.page import render_page
from lightning_select.reports.report_data import ReportData

__all__ = ["write_report"]

PAGE, ROWS = "report.html", "rows.csv"
CHUNK = 50_000


def write_report(folder: Path, report: ReportData) -> Path:
    """Write ``report.html`` and ``rows.csv``, each as a whole or not at all.

    Each file is written beside its place under another name and then moved there, so that a reader, a second run with
    the same folder or a full disk never leaves half of one.

    Args:
        folder: Where to write; made where it is missing. Files of these names are replaced.
        report: What to write.

    Returns:
        The path of the page.

    Raises:
        OSError: The folder cannot be made or written to, or the disk is full; what was there before is still there.
        ConfigurationError: Jinja is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = render_page(report)
    _replace(folder / ROWS, _lines(report))
    _replace(folder / PAGE, (page,))
    return folder / PAGE


def _lines(report: ReportData) -> Iterator[str]:
    """The table of all rows in pieces; what is unknown is empty."""
    columns = {"row": np.arange(report.table.rows), **report.table.columns()}
    suspicion = np.full(report.table.rows, np.nan)
    if report.suspects is not None:
        suspicion[report.suspects.ids] = report.suspects.scores
    columns["suspicion"] = suspicion
    yield f"{','.join(columns)}\n"
    line = ",".join("%d" if np.issubdtype(column.dtype, np.integer) else "%.6g" for column in columns.values()) + "\n"
    for start in range(0, report.table.rows, CHUNK):
        values = zip(*(column[start : start + CHUNK].tolist() for column in columns.values()), strict=True)
        # Numbers only, so that this cannot meet the letters of a text.
        yield "".join([line % one for one in values]).replace("nan", "")


def _replace(file: Path, text: Iterator[str] | tuple[str, ...]) -> None:
    """Put a file in the place of another one at once."""
    # Of this process and this call alone, however many write here.
    written = file.with_name(f".{file.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with written.open("x", encoding="utf-8", newline="") as stream:
            stream.writelines(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(written, file)
    finally:
        # After the move there is nothing left to remove.
        written.unlink(missing_ok=True)
