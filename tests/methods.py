"""Find every method of the package: one class per file, of the file's name."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import torch

from lightning_select.signals.base import Signals

KINDS = ("score", "selector", "weighting")
CONFIGS = Path(__file__).parent.parent / "configs" / "callbacks" / "selection"


def camel(name: str) -> str:
    special = {"el2n": "EL2N", "divbs": "DivBS"}
    return special.get(name, "".join(part.capitalize() for part in name.split("_")))


def modules_of(kind: str) -> list[str]:
    package = importlib.import_module(f"lightning_select.{kind}s")
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(importlib.import_module(f"lightning_select.{kind}s.{name}"), camel(name))]


def class_of(kind: str, name: str) -> Any:
    return getattr(importlib.import_module(f"lightning_select.{kind}s.{name}"), camel(name))


METHODS = [(kind, name) for kind in KINDS for name in modules_of(kind)]
ROWS, CLASSES, FEATURES = 12, 5, 7


def make(kind: str, name: str) -> Any:
    """The method at its defaults; a reducible loss gets a table instead of training one."""
    if name == "reducible_loss":
        return class_of(kind, name)(torch.zeros(ROWS))
    return class_of(kind, name)()


def signals(rows: int = ROWS, seed: int = 0) -> Signals:
    """Everything that a classifier with a reference can show."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, CLASSES, generator=g)
    targets = torch.randint(0, CLASSES, (rows,), generator=g)
    return Signals(
        loss=torch.nn.functional.cross_entropy(logits, targets, reduction="none"),
        logits=logits,
        targets=targets,
        hidden=torch.randn(rows, FEATURES, generator=g),
        reference_loss=torch.rand(rows, generator=g),
        ids=torch.arange(rows),
    )


def field_defaults(method: Any) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
