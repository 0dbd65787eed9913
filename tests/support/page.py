"""Writes what is expected of every cell into ``docs/support_matrix.md``: ``python -m tests.support.page``."""

from __future__ import annotations

import itertools
import platform
from pathlib import Path

import lightning.pytorch
import torch

from tests.support.columns import CALLBACKS, PEER_REVIEW, SAMPLERS, Column
from tests.support.expected import ALL, REMARKS, Outcome, expected
from tests.support.features import Feature

PAGE = Path(__file__).parents[2] / "docs" / "support_matrix.md"
SINGLE = (*CALLBACKS, PEER_REVIEW)
ORDER = ("Strategies", "Precision", "Training", "Data", "Trainer flags", "Lightning's own tools", "Namespaces")

HEAD = """# What it works with

Every cell of this table is a training run of the tests,
on {versions}.
*Works*: a real fit ended with finite parameters; the method did what it is for (fewer rows reached the step, weights
that are not all one reached the gradients, the sampler was fed and learnt, the report was written and training is bit
for bit what it is without); module, Trainer and loaders have no attribute that they did not have. *Refused*: an error
of ours says why, before anything is trained, and the next fit works. *Not by Lightning*: Lightning refuses it without
us too. *n.a.*: the two have nothing to do with each other. "Samplers" are all {samplers}:
{names}.

```bash
python -m pytest tests/support -m "not gpu"  # every cell, some minutes
python -m tests.support.page                 # writes this page
```
"""

FABRIC = """
## Fabric

A loop of Fabric has no Trainer, so the callbacks have no place there. What they are made of works in any loop: scores,
selectors and weightings are functions, and a sampler is told by hand. Fabric leaves the sampler as it is; on several
ranks all of them tell it the rows of all (`fabric.all_gather`), and share its draws (`tests/support/test_fabric.py`).

```python
import torch
from lightning.fabric import Fabric
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from lightning_select.samplers.loss_proportional import LossProportional

fabric = Fabric(accelerator="cpu", devices=1)
data = TensorDataset(torch.arange(64), torch.randn(64, 6), torch.randint(4, (64,)))
net = torch.nn.Linear(6, 4)
model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.1))
sampler = LossProportional(data)
for ids, x, y in fabric.setup_dataloaders(DataLoader(data, 8, sampler=sampler)):
    losses = cross_entropy(model(x), y, reduction="none")
    fabric.backward(losses.mean())
    optimizer.step()
    optimizer.zero_grad()
    sampler.observe(ids, {"loss": losses})
```
"""


class Notes:
    """Reasons, numbered in the order in which they come."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def number(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"[{self.reasons.index(reason) + 1}]"


def cell(outcome: Outcome, notes: Notes) -> str:
    return outcome.kind if outcome.kind == "works" else f"{outcome.kind} {notes.number(outcome.reason)}"


def row(feature: Feature, notes: Notes) -> tuple[str, ...]:
    """What is said of a feature, from left to right."""
    told = [expected(feature, column) for column in SAMPLERS]
    rest = [one for one in told if one.kind != told[0].kind]
    if not rest:
        together = cell(told[0], notes)
    else:
        most = max(told, key=told.count)
        others = [
            f"{column.name} {cell(one, notes)}" for column, one in zip(SAMPLERS, told, strict=True) if one != most
        ]
        together = "; ".join([cell(most, notes), *others])
    return (*(cell(expected(feature, column), notes) for column in SINGLE), together)


def rows(notes: Notes) -> list[str]:
    """Lines of the table; features of a section with the same cells share one."""
    lines = []
    ranked = sorted(ALL, key=lambda feature: ORDER.index(feature.section))
    for section, features in itertools.groupby(ranked, key=lambda feature: feature.section):
        alike: dict[tuple[str, ...], list[str]] = {}
        for feature in features:
            name = f"`{feature.name}`" if "=" in feature.name or feature.name.endswith("()") else feature.name
            remark = f" {notes.number(REMARKS[feature.name])}" if feature.name in REMARKS else ""
            alike.setdefault(row(feature, notes), []).append(name + remark)
        for number, (cells, names) in enumerate(alike.items()):
            lines.append(f"| {f'**{section}**' if not number else ''} | {'; '.join(names)} | {' | '.join(cells)} |")
    return lines


def versions() -> str:
    return (
        f"torch {torch.__version__.partition('+')[0]}, Lightning {lightning.pytorch.__version__} and Python "
        f"{platform.python_version()}"
    )


def page(told: str) -> str:
    """The page, with the versions that it is told."""
    notes = Notes()
    names = [_title(column) for column in SINGLE]
    table = [f"| | | {' | '.join([*names, 'samplers'])} |", "|---" * (len(names) + 3) + "|", *rows(notes)]
    samplers = ", ".join(column.name for column in SAMPLERS)
    parts = [HEAD.format(versions=told, samplers=len(SAMPLERS), names=samplers), "\n".join(table), ""]
    parts += [f"{number}. {reason[0].upper()}{reason[1:]}." for number, reason in enumerate(notes.reasons, 1)]
    return "\n".join(parts) + "\n" + FABRIC


def _title(column: Column) -> str:
    return f"`{column.name}`" if "," not in column.name else "`BatchSelection` with weights"


if __name__ == "__main__":
    PAGE.write_text(page(versions()), encoding="utf-8")
