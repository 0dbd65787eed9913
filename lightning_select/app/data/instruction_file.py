"""Read a file of instructions and answers, and say which line of it is wrong."""

from __future__ import annotations

from typing import Any

from lightning_select.errors import ConfigurationError
from lightning_select.json_rows import json_rows

__all__ = ["read_instructions"]

_ANSWERS = ("output", "response")


def read_instructions(path: str) -> list[dict[str, str]]:
    """The rows of the file, each with an ``instruction``, an ``input`` (maybe empty) and an ``output``.

    Args:
        path: JSON lines, or one JSON list, whatever the file is called; gzipped or not.

    Raises:
        ConfigurationError: There is no such file, or something in it is not as it must be.
    """
    rows = [_row(value, where) for where, value in json_rows(path)]
    if not rows:
        raise ConfigurationError(f"data.path must hold at least one row, got none in {path}.")
    return rows


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
