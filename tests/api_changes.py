"""What of a public API broke between two descriptions of it by `tests.public_api`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["breaks", "missing"]

Parameters = list[list[Any]]
POSITIONAL = ("positional-only", "positional or keyword")


def breaks(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One sentence for each thing that a user's code or config may have relied on and that is no more."""
    found: list[str] = []
    for part, entries in before.items():
        kept = now.get(part, {})
        for name, entry in entries.items():
            if name not in kept:
                found.append(f"{name} is gone from {part}")
            elif part == "configs":
                found += _config(name, entry, kept[name])
            elif part == "names":
                found += _thing(name, _resolved(entry, before), _resolved(kept[name], now))
    return found


def missing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is there now and not yet written down; a break is none of it."""
    return [
        f"{part}: {name}"
        for part, entries in now.items()
        for name, entry in entries.items()
        if entry != before[part].get(name)
    ]


def _resolved(entry: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    return held["names"][entry["as"]] if entry["kind"] == "same" else entry


def _thing(name: str, before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if before["kind"] != now["kind"]:
        yield f"{name} was a {before['kind']} and is a {now['kind']}"
        return
    for base in before.get("bases", ()):
        if base not in now["bases"]:
            yield f"{name} is no {base} any more"
    yield from _parameters(name, before.get("parameters", []), now.get("parameters", []))
    for member, was in before.get("members", {}).items():
        if member not in now["members"]:
            yield f"{name}.{member} is gone"
        elif isinstance(was, list) and isinstance(now["members"][member], list):
            yield from _parameters(f"{name}.{member}", was, now["members"][member])
        elif was != now["members"][member]:
            yield f"{name}.{member} was a method and is none, or the other way round"


def _parameters(name: str, before: Parameters, now: Parameters) -> Iterator[str]:
    known = {parameter: (kind, default) for parameter, kind, default in now}
    for parameter, kind, default in before:
        if parameter not in known:
            yield f"{name} has no argument {parameter} any more"
            continue
        kind_now, default_now = known[parameter]
        if kind_now != kind and kind_now != "positional or keyword":
            yield f"{name}: {parameter} was {kind} and is {kind_now}"
        if default is not None and default_now != default:
            yield f"{name}: the default of {parameter} was {default} and is {default_now or 'none: it must be given'}"
    places = [[one for one, kind, _ in some if kind in POSITIONAL] for some in (before, now)]
    if places[1][: len(places[0])] != places[0] and set(places[0]) <= set(places[1]):
        yield f"{name}: arguments by position were {', '.join(places[0])} and are {', '.join(places[1])}"
    old = {parameter for parameter, *_ in before}
    for parameter, kind, default in now:
        if parameter not in old and default is None and not kind.startswith("variadic"):
            yield f"{name} has a new argument {parameter} without a default"


def _config(name: str, before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for field, value in before.items():
        if field not in now:
            yield f"the config {name} has no {field} any more"
        elif now[field] != value:
            yield f"the config {name}: {field} was {value!r} and is {now[field]!r}"
