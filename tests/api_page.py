"""``docs/api.md``: the public API for readers, from what `tests.public_api` finds."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from tests.public_api import Surface, areas

PAGE = Path(__file__).parents[1] / "docs" / "api.md"

HEAD = """\
# Public API

Every name that you may rely on: modules, names, arguments with their defaults, and configs. What is listed here changes
only as [Deprecations](deprecations.md) says, and a test compares this list with the code. What is not listed here, or
begins with an underscore, may change at any time. Written by `python -m tests.public_api`; do not edit it by hand.

Public besides: the names of [metrics](metrics.md), the signals that [a score may ask for](own_score.md), and what
[checkpoints](upgrading.md) hold.
"""

CONFIGS = """\
## Configs

Groups of Hydra, and the options of each. Every field of an option is public, with its default; the file has them, and
`lightning-select --cfg job OVERRIDES` prints them.
"""


def page(held: Surface) -> str:
    """The whole page."""
    parts = [HEAD]
    for area, modules in areas().items():
        parts.append(f"## {area}\n")
        for module, names in modules.items():
            lines = [_line(module, name, held["names"][f"{module}.{name}"]) for name in names]
            parts.append(f"`{module}`\n\n" + "\n".join(lines) + "\n")
    parts.append(CONFIGS)
    groups: dict[str, list[str]] = {}
    for name in held["configs"]:
        group, _, option = name.rpartition("/")
        groups.setdefault(group, []).append(f"`{option}`")
    parts.append("\n".join(_wrapped(f"- `{group}`: {', '.join(options)}") for group, options in groups.items()) + "\n")
    parts.append("## Entry points\n")
    parts.append("\n".join(f"- `{point}`" for point in held["entry_points"]) + "\n")
    return "\n".join(parts)


def _line(module: str, name: str, entry: dict[str, Any]) -> str:
    if entry["kind"] == "same":
        return f"- `{name}`: the same as `{entry['as']}`."
    thing = getattr(importlib.import_module(module), name)
    given = f"({_arguments(entry['parameters'])})" if entry.get("parameters") else ""
    first = re.split(r"\n\s*\n", inspect.getdoc(thing) or "", maxsplit=1)[0].replace("\n", " ")
    first = re.sub(r"``|`", "`", first)
    members = [f"`{member}`" for member in entry.get("members", {}) if member != "__call__"]
    more = f" Also {', '.join(members)}." if members else ""
    return _wrapped(f"- `{name}{given}`: {first}{more}")


def _arguments(parameters: list[list[Any]]) -> str:
    """As they stand between the brackets of a definition."""
    found, starred = [], False
    for name, kind, default in parameters:
        if kind == "keyword-only" and not starred:
            found.append("*")
        starred = starred or kind in ("keyword-only", "variadic positional")
        found.append(
            {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
            + name
            + (f"={default}" if default else "")
        )
    return ", ".join(found)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
