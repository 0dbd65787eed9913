"""Read a file of instructions and answers, and say which line of it is wrong."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_select.errors import ConfigurationError

__all__ = ["read_instructions"]

_GZIP = b"\x1f\x8b"
_ANSWERS = ("output", "response")


def read_instructions(path: str) -> list[dict[str, str]]:
    """The rows of the file, each with an ``instruction``, an ``input`` (maybe empty) and an ``output``.

    Args:
        path: JSON lines, or one JSON list, whatever the file is called; gzipped or not.

    Raises:
        ConfigurationError: There is no such file, or something in it is not as it must be.
    """
    rows = [_row(value, f"{place} of {path}") for place, value in _values(_text(path), path)]
    if not rows:
        raise ConfigurationError(f"data.path must hold at least one row, got none in {path}.")
    return rows


def _text(path: str) -> str:
    """The whole file, without the mark that some editors put at the start of it."""
    try:
        content = Path(path).expanduser().read_bytes()
        return (gzip.decompress(content) if content.startswith(_GZIP) else content).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"data.path must be a file that exists, got {path!r}. A relative one is looked for in {Path.cwd()}."
        ) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"data.path must be a readable text file in UTF-8, got {path}: {error}") from error


def _values(text: str, path: str) -> Iterator[tuple[str, Any]]:
    """What the file holds, and where each value stands."""
    if text.lstrip().startswith("["):
        for place, value in enumerate(_parse(text, path), start=1):
            yield f"entry {place}", value
        return
    for place, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {place}", _parse(line, f"line {place} of {path}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(
            f"data.path must hold JSON, one object per line or one list of them, got in {where}: {error}"
        ) from error


def _row(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where} must be an object with fields, got {value!r:.60}.")
    answer = next((name for name in _ANSWERS if name in value), None)
    missing = "instruction" if "instruction" not in value else "output (or response)" if answer is None else None
    if missing is not None:
        raise ConfigurationError(f"{where} must have the field {missing}, got {', '.join(value) or 'none'}.")
    given = value.get("input")
    row = {"instruction": value["instruction"], "input": "" if given is None else given, "output": value[str(answer)]}
    for name, text in row.items():
        field = answer if name == "output" else name
        if not isinstance(text, str):
            raise ConfigurationError(f"{field} in {where} must be text, got {text!r:.60}.")
        if not text.strip() and name != "input":
            raise ConfigurationError(f"{field} in {where} must not be empty. Correct the row, or leave it out.")
    return row
