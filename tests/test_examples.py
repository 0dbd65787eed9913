"""Every file of ``examples/`` runs, says something, and stays as short as it is meant to be."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.repository

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
TINY = {"--epochs": "1", "--steps": "2", "--rounds": "2", "--seeds": "1"}
"""Lengths of a run, as examples spell them; each has one of the first three."""

EVERY = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


@pytest.fixture
def _undone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a script may do to a process that it has for itself is put back."""
    threads = torch.get_num_threads()
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


def arguments(path: Path) -> list[str]:
    """The smallest run that an example knows."""
    known = [flag for flag in TINY if f'"{flag}"' in path.read_text()]
    return [part for flag in known for part in (flag, TINY[flag])]


def test_there_is_one_for_each_kind_of_task() -> None:
    named = {"noisy_images", "imbalanced_tabular", "text_classification", "llm_sft", "segmentation", "graph"}
    assert named | {"retrieval_pairs", "rewards"} <= {path.stem for path in EXAMPLES}


@EVERY
@pytest.mark.usefixtures("_undone")
def test_it_runs_and_says_what_came_of_it(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main = runpy.run_path(str(path))["main"]
    given = arguments(path)
    assert set(given) & {"--epochs", "--steps", "--rounds"}
    main(given)
    said = capsys.readouterr().out
    assert re.search(r"\d", said)
    assert "nan" not in said
    assert not list(tmp_path.iterdir()), "an example leaves no files behind"


@EVERY
def test_it_is_short_and_begins_with_what_it_shows(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") < 80
    told = ast.get_docstring(ast.parse(source))
    assert told
    assert 2 <= len(told.splitlines()) <= 10
    assert 'if __name__ == "__main__":\n    main()\n' in source


@EVERY
def test_it_needs_what_an_extra_installs(path: Path) -> None:
    """Whoever has neither sees which extra to install on the first lines."""
    tree = ast.parse(path.read_text())
    roots = {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots |= {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    extras = {"sklearn": "demo", "matplotlib": "demo", "transformers": "llm", "peft": "llm"}
    for root in roots - {"torch", "lightning", "torchmetrics", "numpy", "lightning_select", *sys.stdlib_module_names}:
        assert f'"lightning-select[{extras[root]}]"' in str(ast.get_docstring(tree))
        assert importlib.util.find_spec(root)
