"""Write ``docs/traps.md`` from the table: ``python -m tests.traps.page``."""

from __future__ import annotations

from pathlib import Path

from tests.traps.table import SECTIONS
from tests.traps.trap import Trap

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "traps.md"

COLUMNS = "| | What happens | Seen with | Here | Held by, in `tests` |\n|---|---|---|---|---|\n"

HEAD = """# What Lightning does that a data selection tool must know

Each row is something that Lightning, torch or another project does (reproduced with the versions named), what we do
about it, and the tests that fail if it springs here all the same. Some are worth knowing without this package. The page
is written by `python -m tests.traps.page`.
"""


def line(trap: Trap) -> str:
    """One row of the page."""
    held = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in trap.tests) or trap.reason
    return f"| {trap.number} | {trap.what} | {trap.seen} | {trap.stance} | {held} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, traps in SECTIONS.items():
        rows = "\n".join(line(trap) for trap in traps)
        parts.append(f"## {title}\n\n{COLUMNS}{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
