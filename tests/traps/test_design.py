"""Traps that cannot occur since nothing in the package does what they need; these tests look whether that stays so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_layers import FILES, PACKAGE

ROOT = Path(__file__).parents[2]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
CORE = [path for path in FILES if path.relative_to(PACKAGE).parts[0] != "app"]
"""All but the command, which has a process and its seed for itself."""


def name_of(node: ast.expr) -> str:
    """Dotted name of what is called."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(files: list[Path]) -> Iterator[tuple[str, ast.Call, str]]:
    """What is called, how, and where."""
    for path in files:
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Call):
                yield name_of(node.func), node, f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_the_scans_see_what_they_look_for() -> None:
    names = {name for name, _, _ in calls(FILES)}
    assert {"isinstance", "pl_module.log", "torch.manual_seed", "torch.no_grad"} <= names


def test_no_hook_ends_the_epoch() -> None:
    """``-1`` from ``on_train_batch_start`` would end the epoch, not skip the batch."""
    hooks = [
        node
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "on_train_batch_start"
    ]
    assert hooks
    returns = [one for hook in hooks for one in ast.walk(hook) if isinstance(one, ast.Return)]
    assert not [one for one in returns if one.value is not None]


def test_no_tensor_is_made_that_a_loss_cannot_be_weighted_with() -> None:
    assert not [where for name, _, where in calls(FILES) if name.endswith("inference_mode")]


def test_no_step_is_run_through_the_wrapper_of_the_strategy() -> None:
    """What runs in DDP's forward pass broadcasts buffers, and has to run on all ranks as often."""
    assert not [where for name, _, where in calls(FILES) if name.endswith("strategy.training_step")]


def test_the_global_generators_are_seeded_by_nobody() -> None:
    """But where they are put back afterwards."""
    seeds = {"np.random.seed", "numpy.random.seed", "random.seed", "torch.seed", "seed_everything"}
    assert not [where for name, _, where in calls(CORE) if name in seeds]
    for where in [where for name, _, where in calls(CORE) if name == "torch.manual_seed"]:
        source = (PACKAGE / where.partition(":")[0]).read_text(encoding="utf-8")
        assert "fork_rng" in source or "Generators" in source, where


def test_nothing_goes_to_the_progress_bar() -> None:
    """A value of the progress bar is fetched from the device in every step, even with the bar off."""
    for name, node, where in calls(CORE):
        if name.endswith((".log", ".log_dict")):
            shown = [one.value for one in node.keywords if one.arg == "prog_bar"]
            assert all(isinstance(one, ast.Constant) and one.value is False for one in shown), where


def test_nobody_asks_of_what_namespace_a_trainer_or_a_module_is() -> None:
    """A Trainer of ``pytorch_lightning`` is none of ``lightning.pytorch``."""
    for name, node, where in calls(CORE):
        if name in {"isinstance", "issubclass"}:
            asked = ast.unparse(node.args[1])
            assert "Trainer" not in asked, where
            assert "LightningModule" not in asked, where


def test_no_private_name_of_a_trainer_or_module_is_used_outside_of_compat() -> None:
    theirs = re.compile(r"(^|\.)_?(trainer|pl_module|fit_loop|epoch_loop|strategy)\._(?!_)")
    for path in FILES:
        used = [name_of(node) for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)]
        private = [name for name in used if theirs.search(name)]
        assert bool(private) == (path.name == "compat.py"), f"{path.relative_to(PACKAGE)}: {private}"


def test_nobody_reads_the_loss_that_lightning_divided() -> None:
    """``outputs["loss"]`` is the loss divided by the batches that gradients add up over."""
    for path in CORE:
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value == "loss":
                assert name_of(node.value) not in {"outputs", "output"}, f"{path.name}:{node.lineno}"


def test_no_class_of_torch_or_lightning_is_patched() -> None:
    """A wrap stands on one object, so that other loaders and modules of the process stay as they are."""
    theirs = {"DataLoader", "torch.utils.data.DataLoader", "nn.Module", "Tensor", "torch"}
    for path in CORE:
        targets = [target for node in ast.walk(TREES[path]) if isinstance(node, ast.Assign) for target in node.targets]
        for target in targets:
            if isinstance(target, ast.Attribute):
                assert name_of(target.value) not in theirs, f"{path.name}:{target.lineno}"


def test_no_singular_values_of_logits_are_taken() -> None:
    assert not [where for name, _, where in calls(CORE) if name.endswith("svdvals")]


def test_nothing_grows_by_being_copied_in_every_step() -> None:
    stepping = [
        path for path in CORE if path.relative_to(PACKAGE).parts[0] != "reports"
    ]  # those are written at the end
    assert not [where for name, _, where in calls(stepping) if name in {"np.append", "numpy.append"}]


def test_versions_of_what_is_required_have_no_upper_end() -> None:
    source = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = re.findall(r'^ +"([^"]+)",$', re.search(r"^dependencies = \[\n(.*?)^\]", source, re.M | re.S)[1], re.M)
    assert len(required) == 5
    assert not [line for line in required if re.search(r"~=|==|<", line)]


def test_no_test_is_content_with_anything() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"^ *assert (True|1)$", source, re.M), path
