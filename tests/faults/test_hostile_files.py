"""Every place in the package that reads a file, given files that are broken, of others, or made to do harm."""

from __future__ import annotations

import ast
import pickle
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_select
from lightning_select import BatchSelection
from lightning_select.app.compare.resuming import read_settings
from lightning_select.app.compare.runs import CURVES, RUNS, Run, RunLog, read_runs
from lightning_select.errors import ConfigurationError, ReferenceModelError
from lightning_select.json_rows import json_rows
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.reference import open_reference
from tests.faults import hostile
from tests.faults.scenes import SETUPS, Scene
from tests.fitting import NEW, fit
from tests.modules import Classifier

PACKAGE = Path(lightning_select.__file__).parent
READING = {
    "app/compare/resuming.py": {"read_text"},
    "app/compare/runs.py": {"read_bytes"},
    "json_rows.py": {"read_bytes"},
    "signals/reference.py": {"load", "path.open('rb')"},
}
"""Files of the package that read others, each of which is given bad ones below."""


def test_no_other_place_reads_a_file() -> None:
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            owner = ast.unparse(node.func).partition(".")[0] if name == "load" else ""
            if name in ("read_text", "read_bytes", "load_from_checkpoint") or (
                owner in ("torch", "np", "json", "yaml")
            ):
                found.setdefault(str(file.relative_to(PACKAGE)), set()).add(name)
            if name == "open" and not any(mode in ast.unparse(node) for mode in ("'a'", "'ab'", "'x'", "'w'")):
                if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("self._stream",):
                    continue  # a stream of draws
                found.setdefault(str(file.relative_to(PACKAGE)), set()).add(ast.unparse(node))
    assert found == READING


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What hostile files make if their code runs."""
    place = tmp_path / "it ran".replace(" ", "_")
    yield place
    assert not place.exists()


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """What would fill the machine is refused by the system instead."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


NAMES = list(hostile.files(Path("mark")))


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_of_a_score(name: str, mark: Path, tmp_path: Path) -> None:
    file = tmp_path / "reference.ckpt"
    file.write_bytes(hostile.files(mark)[name]())
    start = time.monotonic()
    with pytest.raises(ReferenceModelError, match=r"ReducibleLoss\.reference must .*"):
        fit(Classifier, BatchSelection(ReducibleLoss(reference=file), TopK(), keep=0.5))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", hostile.numpy_files(Path("mark")))
def test_the_table_of_a_score(name: str, mark: Path, tmp_path: Path) -> None:
    file = tmp_path / "reference.npy"
    file.write_bytes(hostile.numpy_files(mark)[name]())
    with pytest.raises(ReferenceModelError, match=r"ReducibleLoss\.reference must .*"):
        open_reference("ReducibleLoss", file)


@pytest.mark.parametrize("name", [name for name in NAMES if "code" in name])
def test_files_that_would_run_code_would(name: str, tmp_path: Path) -> None:
    """Else the others would show nothing."""
    file, place = tmp_path / "file", tmp_path / "ran"
    file.write_bytes(hostile.files(place)[name]())
    try:
        torch.load(file, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, ValueError):
        pickle.loads(file.read_bytes())
    assert place.exists()


class Keeps(ModelCheckpoint):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, save_last=True, every_n_train_steps=3, save_top_k=0)


@pytest.mark.parametrize("kind", SETUPS)
def test_our_checkpoints_load_with_weights_only(kind: str, tmp_path: Path) -> None:
    settings = {"enable_checkpointing": True, "more": (Keeps(tmp_path),)}
    scene = Scene(kind, tmp_path / "report", settings=settings)
    scene.fit()
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    ours = [
        key for key in state["callbacks"] if key.startswith(("BatchSelection", "SamplerFeedback", "SelectionReport"))
    ]
    assert len(ours) == len(set(SETUPS[kind][0]) & {"selection", "report"}) + bool(SETUPS[kind][1])


@pytest.mark.skipif(not NEW, reason="Lightning before 2.6 cannot be told to load tensors alone")
@pytest.mark.parametrize("name", [name for name in NAMES if "code" in name or "cut" in name or name == "empty"])
def test_a_checkpoint_to_resume_from(name: str, mark: Path, tmp_path: Path) -> None:
    """Lightning reads it before any of us; with ``weights_only=True`` nothing in it runs, and nothing stays behind."""
    settings = {"enable_checkpointing": True, "more": (Keeps(tmp_path),)}
    whole = Scene("everything", tmp_path / "report", settings=settings)
    whole.fit()
    file = tmp_path / "last.ckpt"
    file.write_bytes(hostile.files(mark, file.read_bytes())[name]())
    scene = Scene("everything", tmp_path / "report")
    with pytest.raises((RuntimeError, pickle.UnpicklingError, EOFError, OSError), match=r"(?s).*"):
        scene.fit(ckpt_path=file, weights_only=True)
    assert "training_step" not in vars(scene.module)
    scene.trainer = scene.new_trainer()
    scene.fit()


def some_run(**kwargs: Any) -> Run:
    return Run(**({"method": "uniform", "seed": 0, "final": 0.5, "steps": 3} | kwargs))


BAD_TABLES = {
    "other columns": b"a,b\n1,2\n",
    "not text": bytes(range(256)) * 10 + b"\n",
    "a null byte": b"method,seed\x00\n\x00,\x00\n",
    "a quote that never ends": b'"method,seed\n' + b"x,1\n" * 5,
    "a field of 10 MB": b"x" * 10_000_000 + b"\n",
    "a formula": b"=cmd|' /C calc'!A0,1\n",
}


@pytest.mark.parametrize("table", [RUNS, CURVES])
@pytest.mark.parametrize("name", BAD_TABLES)
def test_runs_of_a_comparison(name: str, table: str, tmp_path: Path) -> None:
    RunLog(tmp_path, [some_run()])
    (tmp_path / table).write_bytes(BAD_TABLES[name])
    with pytest.raises(ConfigurationError, match=f"{table} must have the columns"):
        read_runs(tmp_path)


@pytest.mark.parametrize("column", ["seed", "final", "steps", "evaluations"])
@pytest.mark.parametrize("text", ["x", "1" * 5000, "1e400", "--", "0x10", "nan", "[]"])
def test_cells_of_a_comparison(column: str, text: str, tmp_path: Path) -> None:
    """A number, or an error that names the file."""
    RunLog(tmp_path, [some_run()])
    head, line = (tmp_path / RUNS).read_text().splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True)) | {column: text}
    (tmp_path / RUNS).write_text(f"{head}\n{','.join(cells.values())}\n")
    told = ""
    try:
        read_runs(tmp_path)
    except ConfigurationError as error:
        told = str(error)
    assert (RUNS in told and len(told) < 500) or (not told and column == "final")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'{"methods": 3, "shown": 4}',
        b'{"methods": []}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
    ids=lambda content: str(content[:20]),
)
def test_settings_of_a_comparison(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"comparison\.json must be what a comparison wrote"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"{", b"\x1f\x8b\x00", b"\xff\xff", b"[1, 2", b'{"a": 1}\n{', b"[" * 100_000, b'{"a": ' * 100_000, b"1" * 10_000],
    ids=lambda content: str(content[:20]),
)
def test_rows_of_json(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"data\.path must"):
        list(json_rows(str(file)))


def test_a_row_record_of_the_report_is_no_file_that_is_read() -> None:
    """``rows.csv`` and ``report.html`` are written and never read by us."""
    for file in (PACKAGE / "reports").rglob("*.py"):
        assert "read_" not in file.read_text().replace("read_only", "")
