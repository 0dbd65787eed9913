"""The public API: nothing that a user may rely on goes away unannounced, and what is told to users is listed."""

from __future__ import annotations

import ast
import copy
import importlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api_changes import breaks, missing
from tests.api_page import PAGE, page
from tests.public_api import SNAPSHOT, Surface, areas, surface

ROOT = Path(__file__).parents[1]
ADVICE = (
    "\nDeprecate first: what is public goes through a release in which it still works and warns "
    "(docs/deprecations.md). If that is done, or no release ever had it: a line in CHANGELOG.md and "
    "docs/upgrading.md, then `python -m tests.public_api`."
)


@pytest.fixture(scope="module")
def now() -> Surface:
    return surface()


@pytest.fixture(scope="module")
def promised() -> Surface:
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_nothing_that_was_promised_broke(promised: Surface, now: Surface) -> None:
    found = breaks(promised, now)
    assert not found, "\n".join(found) + ADVICE


def test_what_is_new_is_written_down(promised: Surface, now: Surface) -> None:
    found = missing(promised, now)
    assert not found, f"not in {SNAPSHOT.name}: {found}. Run `python -m tests.public_api`."


@pytest.mark.repository
def test_the_page_is_up_to_date(now: Surface) -> None:
    told = PAGE.read_text(encoding="utf-8")
    assert told == page(now), "Run `python -m tests.public_api`."


def test_every_name_is_in_the_all_of_its_module() -> None:
    for modules in areas().values():
        for module, names in modules.items():
            said = importlib.import_module(module).__all__
            assert set(names) <= set(said), module


def imported(code: str) -> Iterator[str]:
    """What a piece of Python imports of ours."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "lightning_select":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.repository
def test_what_readers_are_told_to_import_is_public(now: Surface) -> None:
    from tests.test_docs import PAGES, blocks

    codes = [code for told in PAGES for code in blocks(told, "python")]
    codes += [script.read_text(encoding="utf-8") for script in (ROOT / "examples").glob("*.py")]
    names = {name for code in codes for name in imported(code)}
    assert len(names) > 20
    assert not names - set(now["names"])


def targets(value: Any) -> Iterator[str]:
    """Every class that a config names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if str(key).rpartition(".")[2] == "_target_":
                yield str(inner)
            yield from targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from targets(inner)


def test_what_the_configs_name_is_public(now: Surface) -> None:
    named = {name for name in targets(now["configs"]) if name.startswith("lightning_select.")}
    assert len(named) > 50
    assert not named - set(now["names"])


def changed(held: Surface, *path: str, value: Any = None) -> Surface:
    """The same with one entry gone, or another one in its place."""
    made = copy.deepcopy(held)
    inner: Any = made
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


CALLBACK = ("names", "lightning_select.BatchSelection")
BREAKS = [
    (("names", "lightning_select.scores.loss.Loss"), None, "lightning_select.scores.loss.Loss is gone from names"),
    ((*CALLBACK, "kind"), "function", "lightning_select.BatchSelection was a class and is a function"),
    ((*CALLBACK, "bases"), [], "lightning_select.BatchSelection is no SelectionCallback any more"),
    (("names", "lightning_select.Schedule", "members", "active"), None, "lightning_select.Schedule.active is gone"),
    (("names", "lightning_select.Schedule", "members", "active"), "attribute", "active was a method and is none"),
    (("configs", "callbacks/selection/uds"), None, "callbacks/selection/uds is gone from configs"),
    (("configs", "callbacks/selection/uds", "keep"), None, "the config callbacks/selection/uds has no keep any more"),
    (("configs", "callbacks/selection/uds", "keep"), 0.5, "uds: keep was 0.125 and is 0.5"),
    (("entry_points",), {}, "lightning_select.app:main is gone from entry_points"),
]


@pytest.mark.parametrize(("path", "value", "told"), BREAKS, ids=[told for *_, told in BREAKS])
def test_a_break_is_told(promised: Surface, path: tuple[str, ...], value: Any, told: str) -> None:
    assert any(told in line for line in breaks(promised, changed(promised, *path, value=value)))


def test_what_is_added_is_no_break(promised: Surface) -> None:
    more = changed(promised, "names", "lightning_select.Later", value={"kind": "function", "parameters": []})
    assert breaks(promised, more) == []
    assert missing(promised, more) == ["names: lightning_select.Later"]


EITHER, KEYWORD = "positional or keyword", "keyword-only"
ARGUMENTS = [
    ([["a", EITHER, None]], [], "f has no argument a any more"),
    ([["a", EITHER, "1"]], [["a", EITHER, "2"]], "f: the default of a was 1 and is 2"),
    ([["a", EITHER, "1"]], [["a", EITHER, None]], "f: the default of a was 1 and is none: it must be given"),
    ([["a", EITHER, None]], [["a", KEYWORD, None]], "f: a was positional or keyword and is keyword-only"),
    ([], [["a", KEYWORD, None]], "f has a new argument a without a default"),
    (
        [["a", EITHER, None], ["b", EITHER, None]],
        [["b", EITHER, None], ["a", EITHER, None]],
        "f: arguments by position were a, b and are b, a",
    ),
    ([["a", EITHER, None]], [["a", EITHER, "1"]], None),
    ([["a", KEYWORD, "1"]], [["a", EITHER, "1"]], None),
    ([["a", EITHER, None]], [["a", EITHER, None], ["b", EITHER, "None"]], None),
]


@pytest.mark.parametrize(("before", "after", "told"), ARGUMENTS)
def test_changes_of_arguments(before: list[Any], after: list[Any], told: str | None) -> None:
    was, becomes = ({"names": {"f": {"kind": "function", "parameters": some}}} for some in (before, after))
    assert breaks(was, becomes) == ([] if told is None else [told])


@pytest.mark.repository
def test_how_a_name_is_deprecated_works_as_the_page_says() -> None:
    """The block of the page that deprecates an argument, run as it stands."""
    from tests.test_docs import blocks

    (code,) = blocks(ROOT / "docs" / "deprecations.md", "python")
    scope: dict[str, Any] = {}
    exec(compile(code, "deprecations.md", "exec", dont_inherit=True), scope)
    with pytest.warns(FutureWarning, match="Halve.share is deprecated since 0.2.0 and goes away in 0.3.0. Write keep="):
        assert scope["Halve"](share=0.25).keep == 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scope["Halve"](keep=0.25).keep == 0.25
