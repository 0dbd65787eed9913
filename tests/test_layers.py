"""The house: who may import whom, how long files and functions may be, what the package may not hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_select

pytestmark = pytest.mark.repository

PACKAGE = Path(lightning_select.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {"errors", "types", "containers", "graphs", "tensor_rows"},
    {"batch", "schedule", "seeding", "looking", "json_rows", "language_models", "distributed", "states"}
    | {"compat", "torch_compat"},
    {"signals", "protocols", "visits", "history", "keyed_history"},
    {"scores", "selectors", "weightings", "samplers", "device_loader", "reports"},
    {"callbacks", "rollouts", "preferences"},
    {"__init__", "__main__", "app", "hydra_plugin", "testing"},
]
ALLOWED = {  # what each layer may import from outside, beside the standard library, torch and numpy
    "signals": {"torchmetrics"},
    "compat": {"lightning", "pytorch_lightning", "lightning_utilities"},
    "graphs": {"torch_geometric"},
    "language_models": {"transformers", "peft"},
    "reports": {"jinja2", "PIL", "markupsafe"},
    "rollouts": {"lightning", "transformers"},
    "preferences": {"lightning", "transformers"},
    "types": {"jaxtyping"},
    "hydra_plugin": {"hydra"},
    "app": {
        "jinja2",
        "markupsafe",
        "lightning",
        "hydra",
        "omegaconf",
        "torchmetrics",
        "sklearn",
        "matplotlib",
        "tqdm",
        "transformers",
        "peft",
    },
}
STANDARD = {"torch", "numpy", "lightning_select"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(part: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            if node.module == "lightning_select":
                yield from (f"lightning_select.{alias.name}" for alias in node.names)


def test_every_part_has_a_layer() -> None:
    assert {part_of(path) for path in FILES} == set().union(*LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    mine = level(part_of(path))
    for name in imports(path):
        if name.startswith("lightning_select."):
            assert level(name.split(".")[1]) <= mine, f"{path.name} imports {name} from a layer above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_outside_imports_are_few(path: Path) -> None:
    import sys

    for name in imports(path):
        root = name.split(".")[0]
        allowed = STANDARD | ALLOWED.get(part_of(path), set()) | set(sys.stdlib_module_names)
        assert root in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= 250
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert length <= 50, f"{path.name}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_the_package_may_not_hold(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"{path.name}:{node.lineno} asserts; raise an error with a sentence"
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") not in {"print", "eval", "exec"}, f"{path.name}:{node.lineno}"
    assert path.name not in {"utils.py", "helpers.py", "registry.py"}
