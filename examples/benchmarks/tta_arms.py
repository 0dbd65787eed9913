"""The methods of `time_to_accuracy`, and what each costs per update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import InMemory
from fits import ORDER
from lightning.pytorch import Callback
from pruning import Data
from torch import Tensor
from tta_fit import Outcome, Parts, Passes, fit, size_of
from tta_tasks import Task

from lightning_select import BatchSelection, Holdout, LossReweighting
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.samplers.balanced_difficulty import BalancedDifficulty
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.info_batch import InfoBatch
from lightning_select.samplers.rank_online import RankOnline
from lightning_select.samplers.repeated_random import RepeatedRandom
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.scores.solve_rate import SolveRate
from lightning_select.selectors.band import Band
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.percentile import Percentile
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.dynamic_loss import DynamicLoss

__all__ = ["BORROWED", "METHODS", "RHO", "RHO_SPARE", "UNIFORM", "Method", "run"]

UNIFORM, RHO, RHO_SPARE = "uniform", "rho_loss", "rho_loss, spare rows"
BORROWED = "uniform, spare rows too"
"""Trains on the rows that the reference of `RHO_SPARE` learns from, beside its own."""

SPARE_EPOCHS = 6
"""Of the small network on the spare rows."""

REFERENCE = 1 / 3
"""Share of its compute that `RHO` spends on its references: two copies of the module, one per half of the rows."""


@dataclass(frozen=True)
class Method:
    """What is added to the Trainer or its loader.

    Attributes:
        parts: From the task, its data, the seed, compute to spend and what counts it: callbacks and sampler.
        keep: Share of the rows of a batch of the loader that are trained on; all are looked at first.
        reference: Is a reference trained first?
        spare: Are there rows besides those to train on?
        as_uniform: Is every row as likely as any other, so that uniform's rate is right?
    """

    parts: Callable[[Task, Data, int, float, Passes], tuple[list[Callback], OnlineSampler | None]]
    keep: float = 1.0
    reference: bool = False
    spare: bool = False
    as_uniform: bool = False

    def steps(self, task: Task, rows: int, share: float) -> int:
        """Updates that cost, with the reference, a share of what uniform costs."""
        units = share * task.units
        if self.reference and self.spare:
            units -= _spare_units(task, rows)
        elif self.reference:
            units -= rows * (1 + 3 * _reference_share(rows, units))
        looked_at = 1 / self.keep if self.keep < 1 else 0.0
        return max(1, round(units / (task.batch * (3 + looked_at))))


def _reference_share(rows: int, units: float) -> float:
    """Share of the rows that references are trained on in an epoch, given what else it costs: to look at every row."""
    return min(1.0, max(0.02, (REFERENCE * units / rows - 1) / 3))


def _spare_units(task: Task, rows: int) -> float:
    if task.spare is None or task.small is None:
        raise ValueError(f"{task.name} has no spare rows.")
    return (3 * SPARE_EPOCHS * len(task.spare(0)) + rows) * size_of(task.small()) / size_of(task.net())


def _with_halves(task: Task, data: Data, seed: int, units: float, passes: Passes) -> tuple[list[Callback], None]:
    holdout = Holdout(epochs=1, share=_reference_share(len(data.train), units), batch_size=task.batch, seed=seed)
    return [BatchSelection(ReducibleLoss(holdout), TopK(), keep=0.1, seed=seed)], None


def _selecting(score: object, selector: object, keep: float) -> Method:
    def parts(task: Task, data: Data, seed: int, units: float, passes: Passes) -> tuple[list[Callback], None]:
        return [BatchSelection(score, selector, keep=keep, seed=seed)], None  # type: ignore[arg-type]

    return Method(parts, keep)


def _drawing(make: Callable[[InMemory, int], OnlineSampler], as_uniform: bool = False) -> Method:
    def parts(task: Task, data: Data, seed: int, units: float, passes: Passes) -> tuple[list[Callback], OnlineSampler]:
        return [SamplerFeedback()], make(data.train, ORDER + seed)

    return Method(parts, as_uniform=as_uniform)


def _with_spare_rows(task: Task, data: Data, seed: int, units: float, passes: Passes) -> tuple[list[Callback], None]:
    """A smaller network learns from the spare rows; its losses of the rows to train on are the reference."""
    if task.spare is None or task.small is None:
        raise ValueError(f"{task.name} has no spare rows.")
    spare, net = task.spare(seed), task.small()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
    batches = [rows for _ in range(SPARE_EPOCHS) for rows in torch.randperm(len(spare)).split(task.batch)]
    fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    for rows in batches:
        x, y = (column[rows] for column in spare.columns)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        fall.step()
        passes.add(len(rows), net, back=True)
    passes.add(len(data.train), net, back=False)
    with torch.no_grad():
        table: Tensor = F.cross_entropy(net(data.train.columns[0]), data.train.columns[1], reduction="none")
    return [BatchSelection(ReducibleLoss(table), TopK(), keep=0.1, seed=seed)], None


METHODS: Mapping[str, Method] = {
    UNIFORM: Method(lambda task, data, seed, units, passes: ([], None)),
    RHO: Method(_with_halves, 0.1, reference=True),
    RHO_SPARE: Method(_with_spare_rows, 0.1, reference=True, spare=True),
    "dynamic_loss": Method(
        lambda task, data, seed, units, passes: ([LossReweighting(DynamicLoss(temperature=1.0))], None)
    ),
    "selective_backprop": _selecting(Loss(), Percentile(), 0.5),
    "balanced_difficulty": _selecting(SolveRate(), Band(), 0.5),
    "uds": _selecting(NuclearNorm(), Diverse(), 0.5),
    "info_batch (sampler)": _drawing(lambda rows, seed: InfoBatch(rows, seed=seed)),
    "balanced_difficulty (sampler)": _drawing(lambda rows, seed: BalancedDifficulty(rows, seed=seed)),
    "rank_online (sampler)": _drawing(lambda rows, seed: RankOnline(rows, seed=seed)),
    "RS2 (sampler)": _drawing(lambda rows, seed: RepeatedRandom(rows, fraction=0.1, seed=seed), as_uniform=True),
    BORROWED: Method(lambda task, data, seed, units, passes: ([], None), spare=True, as_uniform=True),
}


def run(task: Task, name: str, rate: float, share: float, seed: int, held_out: bool = False) -> Outcome:
    """One fit at a share of the compute of uniform; nothing where the reference alone would cost more."""
    method, data = METHODS[name], task.split(seed)
    if name == BORROWED and task.spare is not None:
        columns = zip(data.train.columns, task.spare(seed).columns, strict=True)
        data = Data(InMemory(*(torch.cat(pair) for pair in columns)), data.validation, data.test)

    def parts(passes: Passes) -> Parts:
        callbacks, sampler = method.parts(task, data, seed, share * task.units, passes)
        return callbacks, sampler, round(task.batch / method.keep)

    steps = method.steps(task, len(data.train), share)
    return fit(task.net, rate, data, parts, steps, seed, held_out)
