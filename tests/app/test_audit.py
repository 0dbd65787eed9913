from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_select.app.audit import tell
from lightning_select.errors import ConfigurationError
from lightning_select.reports.likely_mislabelled import likely_mislabelled
from lightning_select.reports.row_record import RowRecord, StepRows
from tests.app import tiny


def test_an_audit_says_what_the_data_are_and_shows_the_rows(launch_tiny: Any, capsys: Any) -> None:
    folder = launch_tiny("task=audit", "trainer.max_steps=48", "audit.class_names=[low,middle,high]")
    said = capsys.readouterr().out
    assert f"audit: {tiny.ROWS} of {tiny.ROWS} rows seen, 4 periods of training" in said
    for words in ("likely wrong labels", "redundancy", "not learnt", "imbalance", "Most suspicious", "because"):
        assert words in said
    assert any(f"{one} or {other}?" in said for one in ("low", "middle", "high") for other in ("low", "middle", "high"))
    rows = np.genfromtxt(folder / "rows.csv", delimiter=",", names=True)
    assert len(rows) == tiny.ROWS
    assert rows["suspicion"].max() == 1.0
    assert (folder / "report.html").exists()


def test_wrong_labels_are_found(launch: Any, capsys: Any) -> None:
    pytest.importorskip("sklearn")
    settings = ("trainer=cpu", "trainer.max_epochs=10", "trainer.enable_progress_bar=false", "threads=1")
    quiet = ("+trainer.logger=false", "+trainer.enable_checkpointing=false", "+trainer.limit_val_batches=0")
    launch("task=audit", *settings, *quiet, "data.noise=0.2")
    line = next(line for line in capsys.readouterr().out.splitlines() if "likely wrong labels" in line)
    assert 15 < float(line.split()[3].rstrip("%")) < 27


def test_groups_and_ids_of_the_batch(launch_tiny: Any) -> None:
    folder = launch_tiny("task=audit", "audit.id_key=id", "audit.groups=id")
    rows = np.genfromtxt(folder / "rows.csv", delimiter=",", names=True)
    seen = rows["offered"] > 0
    np.testing.assert_array_equal(rows["group"][seen], rows["row"][seen])


def test_a_selection_is_refused(launch_tiny: Any) -> None:
    with pytest.raises(ConfigurationError, match="task=audit must train on all rows alike"):
        launch_tiny("task=audit", "callbacks/selection=max_loss")


def test_an_audit_of_nothing_says_so() -> None:
    table = RowRecord(4).table()
    said = tell(table, likely_mislabelled(table))
    assert "audit: 0 of 4 rows seen" in said
    assert "No losses could be read of any row" in said
    assert "unknown" in said


def test_nothing_is_left_beside_the_files(launch_tiny: Any) -> None:
    folder: Path = launch_tiny("task=audit")
    left = {path.name for path in folder.iterdir()}
    assert left == {".hydra", "report.html", "rows.csv"}


def test_a_model_that_knows_its_labels_by_heart_gets_a_hint() -> None:
    record = RowRecord(40)
    for epoch in range(3):
        values = torch.full((40, len(StepRows.NAMES)), 1.0)
        record.update(StepRows(torch.arange(40), values), epoch)
    table = record.table()
    assert "hint: 100.0% of the rows were right at their last visit" in tell(table, likely_mislabelled(table))
    values[:3, StepRows.NAMES.index("agreed")] = 0.0
    record.update(StepRows(torch.arange(40), values), 3)
    table = record.table()
    assert "hint:" not in tell(table, likely_mislabelled(table))
