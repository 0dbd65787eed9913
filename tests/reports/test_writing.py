from __future__ import annotations

import csv
import errno
import math
import os
import threading

import numpy as np
import pytest

from lightning_select.reports import writing
from lightning_select.reports.page import render_page
from lightning_select.reports.writing import write_report
from tests.reports import made_up


def test_both_files_are_written_and_nothing_else(tmp_path):
    report = made_up.report()
    folder = tmp_path / "runs" / "käse 1"
    page = write_report(folder, report)
    assert page == folder / "report.html"
    assert page.read_text(encoding="utf-8") == render_page(report)
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "rows.csv"]


def test_the_table_of_rows_holds_every_value(tmp_path):
    report = made_up.report(made_up.table(120, 4), suspects=made_up.suspects(made_up.table(120, 4)))
    write_report(tmp_path, report)
    with (tmp_path / "rows.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == ["row", *report.table.columns(), "suspicion"]
    suspicion = dict(zip(report.suspects.ids.tolist(), report.suspects.scores.tolist(), strict=True))
    for row, line in enumerate(lines):
        assert int(line["row"]) == row
        assert float(line["suspicion"]) == pytest.approx(suspicion[row], rel=1e-5)
        for name, column in report.table.columns().items():
            value = column[row].item()
            if isinstance(value, int):
                assert line[name] == str(value)
            elif math.isnan(value):
                assert line[name] == ""
            else:
                assert float(line[name]) == pytest.approx(value, rel=1e-5)


def test_more_rows_than_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "CHUNK", 7)
    write_report(tmp_path, made_up.report(made_up.table(23, 2)))
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["row", *map(str, range(23))]


def test_no_rows_and_no_suspects(tmp_path):
    write_report(tmp_path, made_up.report(made_up.unknown(0), suspects=None))
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1


def test_a_second_report_takes_the_place_of_the_first(tmp_path):
    write_report(tmp_path, made_up.report(title="first"))
    page = write_report(tmp_path, made_up.report(made_up.table(10, 2), title="second"))
    assert "<title>second</title>" in page.read_text()
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 11


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    page = write_report(tmp_path, made_up.report(title="first"))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_report(tmp_path, made_up.report(title="second"))
    assert "<title>first</title>" in page.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "rows.csv"]


def test_files_take_their_places_by_one_move(tmp_path, monkeypatch):
    page = write_report(tmp_path, made_up.report(title="first"))

    def stopped(source, target):
        raise OSError("stopped just before the move")

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(OSError, match="stopped just before the move"):
        write_report(tmp_path, made_up.report(title="second"))
    assert "<title>first</title>" in page.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "rows.csv"]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        write_report(tmp_path / "taken", made_up.report())


def test_reports_written_at_once_are_each_whole(tmp_path):
    reports = [made_up.report(made_up.table(50, 2, seed=seed), title=f"run {seed}") for seed in range(4)]
    pages = {render_page(report) for report in reports}
    threads = [threading.Thread(target=write_report, args=(tmp_path, report)) for report in reports for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "report.html").read_text(encoding="utf-8") in pages
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "rows.csv"]


def test_files_have_the_rights_of_others_of_their_owner(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    page = write_report(tmp_path, made_up.report(made_up.table(5, 1)))
    assert page.stat().st_mode == plain.stat().st_mode


def test_values_beyond_float_formats(tmp_path):
    table = made_up.table(4, 1)
    table.loss[:] = np.array([1e38, 1e-38, np.nan, -0.0])
    write_report(tmp_path, made_up.report(table))
    with (tmp_path / "rows.csv").open(newline="") as stream:
        assert [line["loss"] for line in csv.DictReader(stream)] == ["1e+38", "1e-38", "", "-0"]
