"""Ids of rows come from whatever a sampler gives for positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_select import SelectionReport
from lightning_select.errors import RowIdError
from tests.fitting import Rows, trainer
from tests.modules import Classifier


class Named(Rows):
    """Rows by any name of a position."""

    def __getitem__(self, position: Any) -> Any:
        return super().__getitem__(int(position[0] if isinstance(position, tuple) else position))


def named(make: Callable[[int], Any]) -> DataLoader:
    return DataLoader(Named(rows=16), 8, sampler=[make(row) for row in range(16)])


def test_positions_may_be_tensors_of_one_number(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path)
    trainer(report).fit(Classifier(), named(lambda row: torch.tensor([row])))
    assert report.noting.record.table().offered.tolist() == [2] * 16


@pytest.mark.parametrize("make", [str, lambda row: (row, 0), lambda row: str(row).encode()])
def test_positions_that_are_no_whole_numbers(make: Callable[[int], Any], tmp_path: Path) -> None:
    with pytest.raises(RowIdError, match=r"Row ids must be .*whole number.* from the loader's sampler"):
        trainer(SelectionReport(tmp_path)).fit(Classifier(), named(make))
