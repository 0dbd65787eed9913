"""Every cell that one process can run."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_select import SelectionReport
from lightning_select.errors import SelectionError
from tests.fitting import NEW
from tests.support.columns import BY_NAME, COLUMNS, Column
from tests.support.expected import ALL, EXPECTED, expected, known_names
from tests.support.features import FEATURES, Feature
from tests.support.judging import faults
from tests.support.modules import Flow
from tests.support.running import Seen, run

CELLS = [
    pytest.param(feature, column, id=f"{feature.name}-{column.name}", marks=[pytest.mark.slow] * feature.slow)
    for feature in FEATURES
    for column in COLUMNS
]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """What some features switch on for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if torch._dynamo.utils.counters:
        torch.compiler.reset()


def run_quietly(feature: Feature, column: Column | None, folder: Path) -> Seen:
    """With what the feature warns of anyway; any other warning is an error."""
    with warnings.catch_warnings():
        if feature.warns:
            warnings.filterwarnings("ignore", message=f".*({feature.warns})")
        return run(feature, column, folder)


@functools.cache
def plain(feature: Feature) -> Seen:
    """The same without us, once for all columns."""
    return run_quietly(feature, None, Path(tempfile.mkdtemp()))


def said(seen: Seen) -> str:
    return f"{type(seen.error).__name__}: {seen.error}"


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize(("feature", "column"), CELLS)
def test_a_cell_is_what_the_table_says(feature: Feature, column: Column, tmp_path: Path) -> None:
    if not feature.there:
        pytest.skip("this Lightning, or this environment, does not have it")
    if not NEW and (feature.name, column.name) == ("Tuner.lr_find", "PeerReview"):
        pytest.skip("before 2.6 the tuner sets a fit up, refuses its two optimizers, and tears nothing down")
    outcome = expected(feature, column)
    if outcome.kind == "n.a.":
        assert outcome.reason
        return
    seen = run_quietly(feature, column, tmp_path)
    if outcome.kind == "works":
        assert faults(seen, plain(feature)) == []
        return
    assert re.search(outcome.words, said(seen)), said(seen)
    assert ours(seen) == (outcome.kind == "refused")
    assert seen.rows == [], "something was trained before it was refused"
    assert seen.untouched
    assert seen.ours == []
    without = Feature(**{**vars(feature), "module": outcome.proof}) if outcome.proof else feature
    again = run_quietly(without, None, tmp_path / "again")
    if outcome.kind == "refused":
        assert again.error is None, "the next fit without us works"
    else:
        assert re.search(outcome.words, said(again)), "it is Lightning that refuses"


def ours(seen: Seen) -> bool:
    return isinstance(seen.error, SelectionError)


def test_no_sampler_goes_with_an_iterable_dataset() -> None:
    sampler: Any = BY_NAME["Weighted"].sampler
    with pytest.raises(ValueError, match="IterableDataset: expected unspecified sampler option"):
        torch.utils.data.DataLoader(Flow(), 8, sampler=sampler(32))


def test_a_report_on_an_iterable_dataset_is_told_numbers_and_count(tmp_path: Path) -> None:
    """What the refusal says: `rows=` and `id_key=`."""
    feature = next(feature for feature in FEATURES if feature.name == "IterableDataset")
    told = SelectionReport(folder=tmp_path / "report", rows=32, id_key="index")
    column = Column("SelectionReport", "report", lambda folder: [told])
    assert faults(run_quietly(feature, column, tmp_path), plain(feature)) == []


def test_lightning_wants_modules_that_split_themselves() -> None:
    """In a process of its own: Lightning begins a process group and leaves it behind."""
    script = (
        "from lightning.pytorch.strategies import ModelParallelStrategy as Split\n"
        "from tests.fitting import trainer\n"
        "from tests.support.modules import Net, rows_loader\n"
        "trainer(strategy=Split(), devices=1).fit(Net(), rows_loader())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=200)
    assert "When using the ModelParallelStrategy, you are required to override" in done.stderr


def test_the_table_speaks_of_what_there_is() -> None:
    names = [feature.name for feature in ALL]
    assert len(set(names)) == len(names)
    assert set(EXPECTED) <= set(names)
    assert {name for row in EXPECTED.values() for name in row} <= known_names()
    for row in EXPECTED.values():
        for outcome in row.values():
            assert outcome.kind in ("works", "refused", "not by Lightning", "n.a.")
            assert outcome.reason or outcome.kind == "works"
