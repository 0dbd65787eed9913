"""The how-tos: short, with links that lead somewhere, and code that runs."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from lightning_select.app.command import _prepared
from lightning_select.app.config_path import PRIMARY, app_folder, register_configs
from lightning_select.app.hydra_versions import BASE

pytestmark = pytest.mark.repository

ROOT = Path(__file__).parents[1]
HOWTOS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*HOWTOS, ROOT / "README.md"]
WRITTEN_BY_A_PROGRAM = {"api", "support_matrix", "traps"}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def named(pages: list[Path], begin: str | tuple[str, ...] = "") -> pytest.MarkDecorator:
    """Every block of Python of these pages that begins so."""
    found = [(page, code) for page in pages for code in blocks(page, "python") if code.startswith(begin)]
    told = [f"{page.stem}-{code.split(chr(10))[0][:50]}" for page, code in found]
    return pytest.mark.parametrize(("page", "code"), found, ids=told)


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
def test_a_howto_is_short_and_found_in_the_index(page: Path) -> None:
    told = page.read_text(encoding="utf-8")
    assert told.count("\n") < 120 or page.stem in WRITTEN_BY_A_PROGRAM
    assert told.startswith("# ")
    assert page.stem == "index" or f"({page.name})" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@named(PAGES)
def test_code_compiles_and_what_it_imports_is_there(page: Path, code: str) -> None:
    """Fragments lack some names, but no import of ours may be out of date."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ("lightning_select", "lightning"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), node.module


@named(HOWTOS, ("from ", "import "))
def test_code_that_begins_with_an_import_runs_as_it_stands(
    page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    howto = types.ModuleType("howto")  # a module that can be found, so that what it defines can be pickled
    monkeypatch.setitem(sys.modules, "howto", howto)
    exec(compile(code, str(page), "exec"), vars(howto))


def test_most_howtos_have_code_that_runs() -> None:
    assert sum(code.startswith(("from ", "import ")) for page in HOWTOS for code in blocks(page, "python")) >= 6


@pytest.fixture
def _composing() -> Iterator[None]:
    GlobalHydra.instance().clear()
    register_configs()
    with initialize_config_dir(str(app_folder()), **BASE):
        yield


@pytest.mark.usefixtures("_composing")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_compose_and_configs_are_yaml(page: Path) -> None:
    lines = [line for code in blocks(page, "bash") for line in code.replace("\\\n", " ").splitlines()]
    for line in lines:
        if line.startswith("lightning-select "):
            compose(PRIMARY, overrides=_prepared(shlex.split(line, comments=True)[1:]))
    for code in blocks(page, "yaml"):
        assert OmegaConf.create(code)
