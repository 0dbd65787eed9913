"""T-BATCH: most rows are redundant. What does it win to keep 32 of 320, and what do wrong labels make of it?

Ten classes of four modes each, of which one has 85 % of the rows; labels are right, or 30 % of them are wrong. On the
test data all modes are equally frequent. Here methods are compared with uniform after as many steps; rows that are only
scored cost as well, and `equal_rows` counts them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from common import Bar, InMemory, print_table
from fits import Data, Job, Outcome, Outcomes, Runs, Spread, fit, lead, plain, scheduled
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_select import BatchSelection, Holdout
from lightning_select.scores.grad_norm import GradNorm
from lightning_select.scores.loss import Loss
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.importance import Importance
from lightning_select.selectors.percentile import Percentile
from lightning_select.selectors.top_k import TopK

__all__ = ["FAST", "FULL", "Plan", "Table", "bars", "figures", "measure", "mode_data", "run", "show"]

CANDIDATES, KEPT, RATE, NOISE = 320, 32, 1e-3, 0.3
UNIFORM, WHOLE, MAX_LOSS = "uniform", "whole candidate batch", "max_loss"
RHO, HASTY = "rho_loss", "rho_loss, reference on large batches"
SELECTIONS = {
    MAX_LOSS: (Loss(), TopK()),
    "grad_norm": (GradNorm(), TopK()),
    "selective_backprop": (Loss(), Percentile()),
    # The switch of the method is left always on: at 32 of 320 it would wait for gradients that differ far more.
    "importance_sampling": (GradNorm(), Importance(threshold=0.0)),
    # The reference is trained on batches as small as the kept ones; the default, candidate batches, is a tenth of the
    # steps and leaves it short of trained.
    RHO: (ReducibleLoss(Holdout(batch_size=KEPT)), TopK()),
    HASTY: (ReducibleLoss(Holdout()), TopK()),
}
Table = Mapping[str, Outcomes]


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    seeds: Sequence[int] = range(5)
    tuning: Sequence[int] = (100,)
    marks: tuple[int, ...] = (100, 200, 400, 600)
    rows: int = 12_000
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)


FULL = Plan()
FAST = Plan(seeds=(0,), tuning=(100,), marks=(1, 2), rows=640, rates=(1e-3,))


def mode_data(seed: int, noise: float, rows: int = 12_000, dims: int = 32) -> Data:
    """Ten classes of four modes; wrong labels are any of the other nine.

    Centres are normal with standard deviation 1.5 around zero, rows with 1 around their centre: two centres are
    ``1.5 * sqrt(2 * 32) = 12`` apart on average, so that modes are told apart with hardly an error once they were seen
    often enough, and what is measured is how soon the rare ones are. Chosen for the learning curve of uniform alone.
    """
    draw = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(10, 4, dims, generator=draw)

    def sample(count: int, frequencies: Sequence[float]) -> tuple[Tensor, Tensor]:
        label = torch.randint(10, (count,), generator=draw)
        mode = torch.multinomial(torch.tensor(frequencies), count, replacement=True, generator=draw)
        return centres[label, mode] + torch.randn(count, dims, generator=draw), label

    x, y = sample(rows, (0.85, 0.1, 0.035, 0.015))
    test = InMemory(*sample(4000, (0.25, 0.25, 0.25, 0.25)))
    corrupted = torch.rand(rows, generator=draw) < noise
    y = torch.where(corrupted, (y + torch.randint(1, 10, (rows,), generator=draw)) % 10, y)
    return Data(InMemory(x, y, corrupted), test)


class Classifier(LightningModule):
    """Cross entropy of a multilayer perceptron, and AdamW."""

    def __init__(self, dims: int, rate: float, decay: bool, width: int = 128) -> None:
        super().__init__()
        self.rate, self.decay = rate, decay
        layers = nn.Linear(dims, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        self.net = nn.Sequential(*layers)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def figure(self, test: InMemory) -> float:
        """Accuracy."""
        x, y = test.columns
        return float((self.net(x).argmax(dim=-1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return scheduled(self, torch.optim.AdamW(self.parameters(), lr=self.rate), self.decay)


def run(job: Job) -> Outcome:
    """One fit."""
    data = mode_data(job.seed, NOISE if job.corrupted else 0.0, job.rows)
    callbacks = []
    if job.method in SELECTIONS:
        score, selector = SELECTIONS[job.method]
        callbacks = [BatchSelection(score, selector, keep=KEPT, seed=job.seed)]
    return fit(job, data, lambda: Classifier(data.train.columns[0].shape[1], job.rate, job.decay), callbacks)


def measure(runs: Runs, plan: Plan, noisy: bool) -> dict[str, Outcomes]:
    """Every method at the rate of the bed."""
    small = Job(UNIFORM, noisy, plan.marks, plan.rows, KEPT, RATE)
    large = [replace(small, method=method, batch=CANDIDATES) for method in (WHOLE, *SELECTIONS)]
    return {job.method: outcomes for job, outcomes in runs(run, [small, *large], plan.seeds).items()}


def bars(noisy: Table) -> list[Bar]:
    """Accuracy under label noise, at the first mark, less that of uniform: medians over the seeds."""
    first = min(noisy[UNIFORM][0].figures)
    ahead = {method: lead(noisy[method], first, noisy[UNIFORM]).median for method in (RHO, MAX_LOSS)}
    return [
        Bar(f"T-BATCH 30 % noise, {RHO} - uniform at step {first}", ahead[RHO], "at least", 0.15),
        Bar(f"{MAX_LOSS} - uniform", ahead[MAX_LOSS], "below", 0.0),
    ]


def show(title: str, rows: Table) -> None:
    """Update by update."""
    marks = list(rows[UNIFORM][0].figures)
    body = [
        [
            method,
            *(f"{Spread.at(outcomes, mark):.3f}" for mark in marks),
            f"{lead(outcomes, marks[0], rows[UNIFORM]):+.3f}",
            f"{statistics.median(outcome.corrupted for outcome in outcomes):.3f}",
        ]
        for method, outcomes in rows.items()
    ]
    header = ["accuracy at step", *map(str, marks), f"lead over uniform at {marks[0]}", "wrong labels"]
    print_table(f"T-BATCH, {title}: accuracy on balanced modes, per update", header, body)


def figures(rows: Table) -> dict[str, Any]:
    """For the JSON file."""
    return {method: plain(outcomes) for method, outcomes in rows.items()}
