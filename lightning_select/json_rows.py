"""Read a file of JSON objects, and know where in it each of them stands."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_select.errors import ConfigurationError

__all__ = ["json_rows"]

_GZIP = b"\x1f\x8b"


def json_rows(path: str) -> Iterator[tuple[str, Any]]:
    """What the file holds, each value after its place: ``("line 3 of rows.jsonl", {...})``.

    Args:
        path: JSON lines, or one JSON list, whatever the file is called; gzipped or not.

    Raises:
        ConfigurationError: There is no such file, or it does not hold JSON.
    """
    text = _text(path)
    if text.lstrip().startswith("["):
        for place, value in enumerate(_parse(text, path), start=1):
            yield f"entry {place} of {path}", value
        return
    for place, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"line {place} of {path}"
            yield where, _parse(line, where)


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


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, or nested a thousand deep
        raise ConfigurationError(
            f"data.path must hold JSON, one object per line or one list of them, got in {where}: {error}"
        ) from error
