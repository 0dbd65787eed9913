"""What a comparison writes down, run by run, so that one that is killed keeps what it had."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lightning_select.app.compare.counting import BACKWARD
from lightning_select.app.compare.recorder import Point
from lightning_select.errors import ConfigurationError

__all__ = ["CURVES", "RUNS", "Run", "RunLog", "read_runs", "write_csv", "write_whole"]

RUNS = "runs.csv"
CURVES = "curves.csv"


@dataclass(frozen=True)
class Run:
    """One method trained on one seed.

    Attributes:
        method: Name of the method.
        seed: The seed.
        error: Why it failed; empty where it did not.
        final: The final metric, from test data where there is some.
        final_metric: Its name.
        steps: Optimiser steps.
        batches: Batches of the training loader.
        samples: Rows that went through a forward pass.
        trained: Those whose forward pass was followed by a backward pass.
        seconds: Time of training, with scoring and reference models, without evaluations.
        rows_per_step: Rows that a step learnt from, on average.
        flagged_share: Share of rows with wrong labels in what was trained on, where they are marked.
        train_rows: Length of the training dataset, where it has one.
        drawn: The first rows that were drawn from it, where that can be seen, and digests of those that followed.
        validated: Length of the validation dataset, rows of its first batch, and a digest of the first of them.
        evaluated: Batch sizes of the validation and the test loaders.
        epoch_steps: Optimiser steps of an epoch, where it has an end.
        points: The learning curve.
    """

    method: str
    seed: int
    error: str = ""
    final: float | None = None
    final_metric: str = ""
    steps: int = 0
    batches: int = 0
    samples: int = 0
    trained: int = 0
    seconds: float = 0.0
    rows_per_step: float = 0.0
    flagged_share: float | None = None
    train_rows: int | None = None
    drawn: str = ""
    validated: str = ""
    evaluated: str = ""
    epoch_steps: int | None = None
    points: tuple[Point, ...] = field(default=(), repr=False)

    @property
    def cost(self) -> int:
        """Forward passes of a row, those of reference models included, a backward pass counted as two of them."""
        return self.samples + BACKWARD * self.trained


_FIELDS = [column for column in fields(Run) if column.name != "points"]
_RUN_COLUMNS: list[Any] = [*(column.name for column in _FIELDS), "evaluations"]
_CURVE_COLUMNS = ["method", "seed", *(column.name for column in fields(Point))]
_KINDS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}


class RunLog:
    """``runs.csv`` (a line per run) and ``curves.csv`` (a line per evaluation of a run).

    The line of a run is written last, and in one piece: a run without one did not finish.

    Args:
        folder: Where they lie.
        runs: Runs to begin with; whatever else the files held is dropped.

    Raises:
        ConfigurationError: The folder cannot be written to.
    """

    def __init__(self, folder: Path, runs: Sequence[Run] = ()) -> None:
        self.folder = folder
        curves = [_CURVE_COLUMNS, *(line for run in runs for line in _curve(run))]
        write_whole(folder / CURVES, _as_text(curves))
        write_whole(folder / RUNS, _as_text([_RUN_COLUMNS, *(_line(run) for run in runs)]))

    def add(self, run: Run) -> None:
        """Append a run; it is on the disk when this returns.

        Raises:
            ConfigurationError: It cannot be written.
        """
        _append(self.folder / CURVES, _as_text(_curve(run)))
        _append(self.folder / RUNS, _as_text([_line(run)]))


def read_runs(folder: Path) -> list[Run]:
    """The runs that a comparison has written, in their order.

    A last line that was torn by a kill is left out, and so is a run that has lost a part of its curve.

    Raises:
        ConfigurationError: The files are damaged, or have other columns.
    """
    points: dict[tuple[str, str], list[Point]] = {}
    for line in _lines(folder / CURVES, _CURVE_COLUMNS):
        point = Point(*(_value(folder / CURVES, line, column) for column in fields(Point)))
        points.setdefault((line["method"], line["seed"]), []).append(point)
    runs = {}
    for line in _lines(folder / RUNS, _RUN_COLUMNS):
        values = {column.name: _value(folder / RUNS, line, column) for column in _FIELDS}
        # A kill between the two files leaves a curve without a run, which the next attempt appends once more.
        curve = points.get((line["method"], line["seed"]), [])
        evaluations = _number(folder / RUNS, line["evaluations"] or "0", "evaluations", int)
        if len(curve) >= evaluations:
            curve = curve[len(curve) - evaluations :]
            runs[line["method"], line["seed"]] = Run(**values, points=tuple(curve))
    return list(runs.values())


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table anew, one mapping per line.

    Raises:
        ConfigurationError: It cannot be written.
    """
    write_whole(file, _as_text([list(rows[0]), *(_blank(row.values()) for row in rows)]))


def write_whole(file: Path, text: str) -> None:
    """Write a file so that there is the old one or the new one at any moment.

    Raises:
        ConfigurationError: It cannot be written.
    """
    draft = file.with_name(f"{file.name}.part")
    try:
        draft.unlink(missing_ok=True)
        _append(draft, text)
        draft.replace(file)
    except OSError as error:
        raise _unwritable(file, error) from error
    finally:
        with contextlib.suppress(OSError):  # a half one takes room that is short
            draft.unlink(missing_ok=True)


def _lines(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The whole lines of a file, by column; none where there is no file, or not even a whole heading."""
    whole = file.read_bytes().rpartition(b"\n")[0] if file.exists() else b""
    try:
        table = list(csv.reader(io.StringIO(whole.decode("utf-8", errors="replace"), newline="")))
    except csv.Error:  # a cell of more than 128 kB
        table = [[]]
    head, *lines = table or [list(columns)]
    if head != list(columns) or any(len(line) != len(columns) for line in lines):
        raise ConfigurationError(
            f"{file} must have the columns {', '.join(columns)}, got another table. Start anew in another folder."
        )
    return [dict(zip(columns, line, strict=True)) for line in lines]


def _value(file: Path, line: Mapping[str, str], column: Field[Any]) -> Any:
    """What a cell says, as the type of its field; an empty one is ``None`` where that may be."""
    kind, _, optional = str(column.type).partition(" | ")
    text = line[column.name]
    if optional and not text:
        return None
    return _number(file, text, column.name, _KINDS[kind])


def _number(file: Path, text: str, name: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise ConfigurationError(f"{file} must have a number as {name}, got {text[:80]!r}.") from error


def _line(run: Run) -> list[Any]:
    return [*_blank(getattr(run, column.name) for column in _FIELDS), len(run.points)]


def _curve(run: Run) -> list[list[Any]]:
    return [[run.method, run.seed, *asdict(point).values()] for point in run.points]


def _blank(values: Iterable[Any]) -> list[Any]:
    return ["" if value is None else value for value in values]


def _as_text(lines: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue()


def _append(file: Path, text: str) -> None:
    try:
        with file.open("ab") as handle:
            handle.write(text.encode("utf-8", errors="backslashreplace"))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"hydra.run.dir must be a folder with room that can be written to, got {file.parent}: {error.strerror}. What "
        f"stands in {RUNS} is kept: compare.resume='{file.parent}' goes on from there."
    )
