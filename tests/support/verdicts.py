"""What a process of a launch found out about a cell, in a file for the test that began it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_select.errors import SelectionError
from tests.support.judging import faults
from tests.support.running import Seen

__all__ = ["read", "write"]


def write(folder: Path, rank: int, seen: Seen, plain: Any) -> None:
    """One file per cell and rank, beside the folder of the cell."""
    found = faults(seen, plain) if seen.cell.column is not None else []
    verdict = {
        "faults": found,
        "said": "" if seen.error is None else f"{type(seen.error).__name__}: {seen.error}",
        "ours": isinstance(seen.error, SelectionError),
        "rows": seen.rows,
        "hanging": seen.ours,
    }
    folder.with_name(f"{folder.name}.{rank}.json").write_text(json.dumps(verdict))


def read(folder: Path, name: str, ranks: int = 2) -> list[dict[str, Any]]:
    """Those of all ranks."""
    return [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(ranks)]
