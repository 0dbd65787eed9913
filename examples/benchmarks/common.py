"""What the benchmarks share: data in memory, a Trainer that says nothing, bars, and the verdict at the end."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import operator
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import lightning_select

__all__ = ["QUIET", "Bar", "InMemory", "be_quiet", "finish", "loader", "options", "print_table", "without_attached"]

QUIET: Mapping[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class InMemory(Dataset[Any]):
    """Columns of rows; a whole batch is taken at once, as DataLoader allows (``__getitems__``)."""

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        return tuple(column[row] for column in self.columns)

    def __getitems__(self, rows: Sequence[int]) -> list[Tensor]:
        index = torch.tensor(rows)
        return [column[index] for column in self.columns]


def loader(rows: InMemory, batch_size: int, seed: int) -> DataLoader[Any]:
    """Full batches in an order that depends on the seed alone, whatever a method draws."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(rows, batch_size, shuffle=True, drop_last=True, collate_fn=_as_it_is, generator=order)


def _as_it_is(batch: Any) -> Any:
    return batch


def without_attached(trainer: Any) -> Any:
    """The Trainer without the callback that an installed lightning-select attaches to every Trainer by itself."""
    trainer.callbacks = [one for one in trainer.callbacks if not getattr(one, "_attached_by_itself", False)]
    return trainer


def be_quiet() -> None:
    """No word from Lightning: the tables are what matters."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")


@dataclass(frozen=True)
class Bar:
    """A figure, and what it must be at most or at least."""

    name: str
    value: float
    rule: Literal["at most", "at least", "above", "below"]
    limit: float

    @property
    def holds(self) -> bool:
        """A figure that is not a number holds no bar."""
        compare = {"at most": operator.le, "at least": operator.ge, "above": operator.gt, "below": operator.lt}
        return bool(compare[self.rule](self.value, self.limit))

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g} ({self.rule} {self.limit:g}{'' if self.holds else ': MISSED'})"


def options(
    arguments: Sequence[str] | None,
    description: str | None,
    paths: Sequence[str] = (),
    flags: Sequence[str] = (),
    numbers: Mapping[str, int] = MappingProxyType({}),
) -> argparse.Namespace:
    """The command line that every benchmark has, with paths, flags and whole numbers that some have besides."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument(
        "--fast", action="store_true", help="a few steps, to see that it runs; the figures mean nothing"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures to this file")
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, metavar="PATH")
    for name in flags:
        parser.add_argument(f"--{name}", action="store_true")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default:,}")
    return parser.parse_args(arguments)


def finish(benchmark: str, figures: Any, bars: Sequence[Bar], asked: argparse.Namespace, seconds: float) -> int:
    """Write the figures where asked, print the verdict as the last line, and return the exit status."""
    held = bool(bars) and all(bar.holds for bar in bars)
    if asked.json is not None:
        record = {
            "benchmark": benchmark,
            "fast": asked.fast,
            "date": datetime.date.today().isoformat(),
            "device": _device(),
            "versions": {
                "lightning-select": getattr(lightning_select, "__version__", "source tree"),
                "torch": torch.__version__,
                "lightning": lightning.__version__,
                "python": platform.python_version(),
            },
            "seconds": round(seconds, 1),
            "figures": figures,
            "bars": [{**asdict(bar), "holds": bar.holds} for bar in bars],
            "holds": held,
        }
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(record, indent=1) + "\n")
    word = ("HOLDS" if held else "FAILS") + (" (--fast, so it means nothing)" if asked.fast else "")
    print(f"\nverdict: {benchmark} {word}: {'; '.join(map(str, bars))}", flush=True)
    return 0 if held else 1


def _device() -> str:
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The first column to the left, numbers to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}")
    for line in lines:
        cells = [
            cell.ljust(w) if column == 0 else cell.rjust(w)
            for column, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
    sys.stdout.flush()
