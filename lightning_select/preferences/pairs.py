"""Read a file of preference pairs, and say which line of it is wrong."""

from __future__ import annotations

from typing import Any

from lightning_select.errors import ConfigurationError
from lightning_select.json_rows import json_rows

__all__ = ["read_pairs"]

_FIELDS = ("prompt", "chosen", "rejected")


def read_pairs(path: str) -> list[dict[str, Any]]:
    """The pairs of the file, each with ``prompt`` (maybe empty), ``chosen``, ``rejected``, and ``flipped`` or ``None``.

    Args:
        path: JSON lines, or one JSON list, gzipped or not, whatever the file is called. ``flipped`` is true where
            somebody knows that the two are labelled the wrong way round; further fields are ignored.

    Raises:
        ConfigurationError: There is no such file, or something in it is not as it must be.
    """
    pairs = [_pair(value, where) for where, value in json_rows(path)]
    if not pairs:
        raise ConfigurationError(f"data.path must hold at least one pair, got none in {path}.")
    known = [number for number, pair in enumerate(pairs) if pair["flipped"] is not None]
    if known and len(known) < len(pairs):
        missing = next(number for number, pair in enumerate(pairs, start=1) if pair["flipped"] is None)
        raise ConfigurationError(f"flipped must be in every pair of {path}, or in none, got none in pair {missing}.")
    return pairs


def _pair(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where} must be an object with fields, got {value!r:.60}.")
    missing = next((name for name in _FIELDS if name not in value), None)
    if missing is not None:
        raise ConfigurationError(f"{where} must have the field {missing}, got {', '.join(value) or 'none'}.")
    for name in _FIELDS:
        text = value[name]
        if not isinstance(text, str):
            raise ConfigurationError(f"{name} in {where} must be text, got {text!r:.60}.")
        if not text.strip() and name != "prompt":
            raise ConfigurationError(f"{name} in {where} must not be empty. Correct the pair, or leave it out.")
    if value["chosen"] == value["rejected"]:
        raise ConfigurationError(f"chosen and rejected in {where} must differ, got twice {value['chosen']!r:.60}.")
    flipped = value.get("flipped")
    if flipped is not None and not isinstance(flipped, bool):
        raise ConfigurationError(f"flipped in {where} must be true or false, got {flipped!r:.60}.")
    return {**{name: value[name] for name in _FIELDS}, "flipped": flipped}
