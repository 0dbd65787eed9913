"""Batches of two rows and of one, and the index that a step is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.scoring import StepRunner
from lightning_select.types import Selection
from tests import test_distributed as ranks
from tests.fitting import fit, loader, same, weights_of
from tests.modules import SCENARIOS, Base, Classifier, Scenario, features

EVERY = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
SIZES = pytest.mark.parametrize("sizes", [(2, 2), (1, 1), (8, 1), (1, 8), (2, 1), (2, 8)], ids=str)


class LossesByRow(Base):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], reduction="none").mean()


class Centred(Base):
    """Each row's logits are centred: of one row, a mean of one entry."""

    def training_step(self, batch, batch_idx):
        z = self(batch[0])
        z = z - z.mean(dim=1, keepdim=True)
        return F.cross_entropy(z, batch[1])


class TimeFirst(Base):
    """Losses [T, rows]: of one row, the sum over time is one number like the loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = torch.stack([F.cross_entropy(self(x * t), y, reduction="none") for t in (1, 2, 3)])
        return losses.sum(0).mean()


class TwoSteps(Base):
    def training_step(self, batch, batch_idx):
        return (self(batch[0]) - F.one_hot(batch[1], 4)).square().mean(1).mean()


class OneColumn(Base):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], reduction="none")[:, None].mean(0)


KINDS = [LossesByRow, Centred, TimeFirst, TwoSteps, OneColumn]


def batches(sizes: tuple[int, ...], make: Any = features) -> DataLoader:
    return DataLoader([make(seed, rows) for seed, rows in enumerate(sizes)], batch_size=None)


@SIZES
@EVERY
def test_law_1_on_small_batches(scenario: Scenario, sizes: tuple[int, ...]) -> None:
    data = batches(sizes, scenario.batch)
    plain = weights_of(fit(scenario.module, data=data))
    assert same(plain, weights_of(fit(scenario.module, LossReweighting(torch.ones_like), data=data)))


@SIZES
@pytest.mark.parametrize("kind", KINDS)
def test_law_1_on_small_batches_of_other_steps(kind: type[Base], sizes: tuple[int, ...]) -> None:
    data = batches(sizes)
    plain = weights_of(fit(kind, data=data))
    assert same(plain, weights_of(fit(kind, LossReweighting(torch.ones_like), data=data)))


@pytest.mark.parametrize("kind", [LossesByRow, Centred, TimeFirst, TwoSteps, OneColumn])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_row_losses(kind: type[Base], rows: int) -> None:
    module = kind()
    x, y = features(rows=rows)
    alone = torch.cat([module.training_step((x[r : r + 1], y[r : r + 1]), 0).reshape(1) for r in range(rows)])
    losses = StepRunner(module, None, module.training_step).measure((x, y), {"loss"}).loss
    torch.testing.assert_close(losses, alone.detach())


class Twice:
    """A selector that weighs whatever it is given."""

    needs: frozenset[str] = frozenset()
    with_replacement = True

    def __call__(self, scores: Tensor, count: int, context: Any) -> Selection:
        return Selection(torch.arange(count), torch.full((count,), 2.0))


@pytest.mark.parametrize("kind", [LossesByRow, Centred, TimeFirst, TwoSteps, OneColumn])
@pytest.mark.parametrize("sizes", [(1, 1), (8, 1)], ids=str)
def test_a_weight_acts_on_a_row_alone(kind: type[Base], sizes: tuple[int, ...]) -> None:
    class Doubled(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch, batch_idx):
            return 2.0 * super().training_step(batch, batch_idx)

    ours = weights_of(fit(kind, BatchSelection(Loss(), Twice(), keep=1.0), data=batches(sizes)))
    for name, value in weights_of(fit(Doubled, data=batches(sizes))).items():
        torch.testing.assert_close(ours[name], value)


def test_a_module_that_insists_on_one_row() -> None:
    class One(Base):
        def training_step(self, batch, batch_idx):
            if len(batch[0]) != 1:
                raise RuntimeError("one row at a time")
            return F.cross_entropy(self(batch[0]), batch[1])

    plain = weights_of(fit(One, data=batches((1, 1))))
    assert same(plain, weights_of(fit(One, LossReweighting(torch.ones_like), data=batches((1, 1)))))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_ranks_end_on_a_batch_of_one_row(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = DataLoader(ranks.Half(10), batch_size=4, shuffle=False)
    found = ranks.fit(tmp_path, 2, [LossReweighting(lambda losses: losses)], data)
    torch.set_num_threads(threads)
    assert [len(rows) for rows in found[0]["rows"]] == [4, 1]
    assert same(found[0]["weights"], found[1]["weights"])
    last = torch.cat([found[0]["last"], found[1]["last"]])
    assert last.shape == (2,)
    torch.testing.assert_close(last.mean(), torch.tensor(1.0))
    assert last[0] != last[1]


@pytest.mark.parametrize(
    "callback", [lambda: LossReweighting(torch.ones_like), lambda: BatchSelection(Loss(), TopK(), keep=4)]
)
def test_every_run_of_a_step_is_told_the_index_of_its_batch(callback: Any) -> None:
    seen: list[int] = []

    class Watching(Classifier):
        """Another loss in every other batch, so that the second one is looked at anew."""

        def training_step(self, batch, batch_idx):
            seen.append(batch_idx)
            z = self(batch[0])
            loss = F.cross_entropy(z, batch[1])
            return loss + z.square().mean() if batch_idx % 2 else loss

    class Between(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            runs.append(set(seen))
            seen.clear()

    runs: list[set[int]] = []
    fit(Watching, callback(), Between(), data=loader(rows=32))
    assert runs == [{0}, {1}, {2}, {3}] * 2


def test_both_kinds_of_step_are_weighed() -> None:
    class Alternating(Classifier):
        def training_step(self, batch, batch_idx):
            z = self(batch[0])
            loss = F.cross_entropy(z, batch[1])
            return loss + z.square().mean() if batch_idx % 2 else loss

    plain = weights_of(fit(Alternating))
    assert same(plain, weights_of(fit(Alternating, LossReweighting(torch.ones_like))))
    assert not same(plain, weights_of(fit(Alternating, LossReweighting(lambda losses: losses))))
