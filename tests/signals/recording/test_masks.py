"""Padding that is cut away before the loss: the terms that are left find their rows."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting
from lightning_select.errors import TrainingStepContractError
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.layout.rows import Layout
from lightning_select.signals.recording.capture import Capture
from lightning_select.signals.recording.masks import Cuts
from lightning_select.signals.scoring import StepRunner
from tests.fitting import fit, same, weights_of
from tests.modules import CLASSES, FEATURES, ROWS, Base, features
from tests.samplers.waits import Waits

STEPS = 6
WHOLE = [STEPS] * ROWS
RAGGED = [6, 5, 4, 3, 2, 1, 6, 2]  # 29 tokens
LUCKY = [6, 5, 4, 3, 2, 1, 1, 2]  # 24 tokens, three times the rows
FOOLED = [4, 2, 5, 1, 6, 3, 1, 2]  # 24 tokens, of which the first two rows have a quarter, like any two of eight


class Padded(Base):
    """Token classification; the subclasses differ in how the padding goes."""

    def training_step(self, batch, batch_idx):
        x, y, mask = batch
        return self.loss(self(x), y, mask)


class Masked(Padded):
    def loss(self, z, y, mask):
        return F.cross_entropy(z[mask], y[mask])


class Flat(Padded):
    def loss(self, z, y, mask):
        active = mask.view(-1)
        return F.cross_entropy(z.view(-1, CLASSES)[active], y.view(-1)[active])


class MaskFirst(Padded):
    """The head sees what is left only."""

    def training_step(self, batch, batch_idx):
        x, y, mask = batch
        return F.cross_entropy(self(x[mask]), y[mask])


class Selected(Padded):
    def loss(self, z, y, mask):
        losses = F.cross_entropy(z.movedim(-1, 1), y, reduction="none")
        return torch.masked_select(losses, mask).mean()


class Found(Padded):
    def loss(self, z, y, mask):
        index = mask.view(-1).nonzero().squeeze(1)
        return F.nll_loss(z.view(-1, CLASSES)[index].log_softmax(-1), y.view(-1).index_select(0, index))


class FoundByAxis(Padded):
    def loss(self, z, y, mask):
        place = torch.where(mask)
        return F.cross_entropy(z[place], y[place])


class ByHand(Padded):
    def loss(self, z, y, mask):
        log_p = z[mask, :].log_softmax(-1)
        return -log_p.gather(1, y[mask][:, None]).squeeze(1).mean()


class TimeFirst(Padded):
    def loss(self, z, y, mask):
        mask = mask.T
        return F.cross_entropy(z.transpose(0, 1)[mask], y.T[mask])


class Packed(Padded):
    def loss(self, z, y, mask):
        lengths = mask.sum(1).cpu()
        z, y = (pack_padded_sequence(v, lengths, batch_first=True, enforce_sorted=False).data for v in (z, y))
        return F.cross_entropy(z, y)


class PackedTimeFirst(Padded):
    def loss(self, z, y, mask):
        lengths = mask.sum(1).cpu()
        z, y = (pack_padded_sequence(v.transpose(0, 1), lengths, enforce_sorted=False).data for v in (z, y))
        return F.cross_entropy(z, y)


class Features(Padded):
    def loss(self, z, y, mask):
        return F.mse_loss(z[mask], F.one_hot(y, CLASSES).float()[mask])


class FeaturesOfSome(Padded):
    """A mask that is broadcast over the features."""

    def loss(self, z, y, mask):
        return (z - F.one_hot(y, CLASSES)).square().masked_select(mask[..., None]).mean()


EVERY = pytest.mark.parametrize(
    "kind",
    [
        *(Masked, Flat, MaskFirst, Selected, Found, FoundByAxis, ByHand, TimeFirst, Packed, PackedTimeFirst),
        *(Features, FeaturesOfSome),
    ],
)


def padded(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    rows = len(lengths)
    mask = torch.arange(STEPS) < torch.tensor(lengths)[:, None]
    return torch.randn(rows, STEPS, FEATURES, generator=g), torch.randint(0, CLASSES, (rows, STEPS), generator=g), mask


def batches(*made: Any) -> DataLoader:
    return DataLoader(list(made), batch_size=None)


def row(batch: Any, position: int) -> Any:
    return tuple(part[position : position + 1] for part in batch)


def alone(module: Base, batch: Any) -> Tensor:
    """The loss of each row, computed from nothing but that row."""
    return torch.stack([module.training_step(row(batch, position), 0) for position in range(len(batch[0]))])


@EVERY
@pytest.mark.parametrize("first", [WHOLE, RAGGED, LUCKY, FOOLED], ids=["whole", "ragged", "lucky", "fooled"])
def test_rows_of_what_is_left(kind: type[Base], first: list[int]) -> None:
    module = kind()
    runner = StepRunner(module, None, module.training_step)
    for seed, lengths in enumerate((first, RAGGED, LUCKY, WHOLE, FOOLED)):
        batch = padded(lengths, seed)
        torch.testing.assert_close(runner.measure(batch, {"loss"}).loss, alone(module, batch).detach())


@EVERY
def test_weights_act_on_what_is_left_of_their_rows(kind: type[Base]) -> None:
    """The gradient is that of a loop over the rows: each row's share of the tokens times its weight times its loss."""
    weights = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 1.0, 0.3, 1.7])
    batch, share = padded(RAGGED), torch.tensor(RAGGED) / sum(RAGGED)

    class Weighted(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch, batch_idx):
            rows = [super(Weighted, self).training_step(row(batch, position), 0) for position in range(ROWS)]
            return (share * weights * torch.stack(rows)).sum()

    expected = weights_of(fit(Weighted, data=batches(batch), max_epochs=1))
    ours = weights_of(fit(kind, LossReweighting(lambda losses: weights), data=batches(batch), max_epochs=1))
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value)


@EVERY
@pytest.mark.parametrize("lengths", [WHOLE, RAGGED], ids=["whole", "ragged"])
def test_law_1_unit_weights_change_no_bit(kind: type[Base], lengths: list[int]) -> None:
    data = batches(*[padded(lengths, seed) for seed in range(3)])
    assert same(weights_of(fit(kind, data=data)), weights_of(fit(kind, LossReweighting(torch.ones_like), data=data)))


@EVERY
def test_law_7_putting_back_waits_for_nothing(kind: type[Base]) -> None:
    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if trainer.global_step == 3:
                self.mode = Waits()
                self.mode.__enter__()
            if trainer.global_step == 8:
                self.mode.__exit__(None, None, None)

    def waits(*callbacks: pl.Callback) -> list[str]:
        watch = Watch()
        data = batches(*[padded(RAGGED, seed) for seed in range(8)])
        fit(kind, *callbacks, watch, data=data, max_epochs=1, log_every_n_steps=1000)
        return sorted(watch.mode.seen)

    plain = waits()
    assert waits(LossReweighting(lambda losses: losses)) == plain
    # To be scored, the step runs forwards a second time, and waits for itself once more.
    assert collections.Counter(waits(BatchSelection(Loss(), TopK(), keep=4))) <= collections.Counter(plain * 2)


@EVERY
def test_selection_takes_the_rows_with_the_largest_losses(kind: type[Base]) -> None:
    kept: list[Tensor] = []

    class Watching(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch, batch_idx):
            kept.append(batch[0])
            return super().training_step(batch, batch_idx)

    batch = padded(RAGGED)
    torch.manual_seed(1)
    expected = alone(kind(), batch).topk(3).indices.sort().values
    fit(Watching, BatchSelection(Loss(), TopK(), keep=3), data=batches(batch), max_epochs=1)
    assert torch.equal(kept[-1], batch[0][expected])


@pytest.mark.parametrize("kind", [Masked, Flat, Selected, Found, TimeFirst, Features])
def test_a_loss_that_is_compiled(kind: type[Base]) -> None:
    class Compiled(kind):  # type: ignore[misc, valid-type]
        def loss(self, z, y, mask):
            return self.compiled(z, y, mask)

        def __init__(self) -> None:
            super().__init__()
            self.compiled = torch.compile(super().loss, backend="aot_eager")

    data = batches(padded(RAGGED), padded(WHOLE), padded(LUCKY))
    for callback in (LossReweighting(lambda losses: losses), BatchSelection(Loss(), TopK(), keep=4)):
        expected = weights_of(fit(kind, callback, data=data, max_epochs=1))
        ours = weights_of(fit(Compiled, callback, data=data, max_epochs=1))
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value)


@pytest.mark.parametrize("kind", [Masked, Flat, MaskFirst, ByHand, TimeFirst, Packed])
def test_logits_are_put_back_to_their_tokens(kind: type[Base]) -> None:
    module, batch = kind(), padded(RAGGED)
    found = StepRunner(module, None, module.training_step).measure(batch, {"loss", "logits", "hidden"})
    x, y, mask = batch
    assert torch.equal(found.valid, mask)
    torch.testing.assert_close(found.logits[mask], module(x)[mask].detach())
    assert torch.equal(found.targets[mask], y[mask])
    if kind in (Masked, Flat, MaskFirst):
        torch.testing.assert_close(found.hidden[mask], module.net[:2](x)[mask].detach())


def test_a_row_of_padding_alone_has_no_loss() -> None:
    module, batch = Masked(), padded([6, 0, 4, 3, 2, 1, 6, 2])
    losses = StepRunner(module, None, module.training_step).measure(batch, {"loss"}).loss
    assert losses[1] == 0
    assert (losses[[0, 2, 3, 4, 5, 6, 7]] > 0).all()


def test_a_batch_of_padding_alone() -> None:
    class Empty(Padded):
        def loss(self, z, y, mask):
            return F.cross_entropy(z[mask], y[mask], reduction="sum") / mask.sum().clamp(min=1)

    runner = StepRunner(module := Empty(), None, module.training_step)
    nothing = padded([0] * ROWS)
    assert runner.measure(padded(RAGGED), {"loss"}).loss.isfinite().all()
    assert torch.equal(runner.measure(nothing, {"loss"}).loss, torch.zeros(ROWS))
    data = batches(padded(RAGGED), nothing, padded(LUCKY))
    assert same(weights_of(fit(Empty, data=data)), weights_of(fit(Empty, LossReweighting(torch.ones_like), data=data)))


def test_a_mask_for_a_metric_is_not_the_mask_of_the_loss() -> None:
    class Metric(Base):
        """The mask lets one token a row through, or as many as there are rows."""

        def training_step(self, batch, batch_idx):
            x, y, mask = batch
            z = self(x)
            self.seen = (z.argmax(-1)[mask] == y[mask]).float().mean().item()
            return F.cross_entropy(z.mean(1), y[:, 0])

    module = Metric()
    runner = StepRunner(module, None, module.training_step)
    for lengths in ([2, 1, 1, 1, 1, 1, 1, 0], WHOLE, RAGGED, [0, 1, 1, 1, 1, 1, 1, 2]):
        batch = padded(lengths)
        expected = F.cross_entropy(module(batch[0]).mean(1), batch[1][:, 0], reduction="none")
        torch.testing.assert_close(runner.measure(batch, {"loss"}).loss, expected.detach())


def test_a_mask_with_one_entry_in_each_row() -> None:
    class Last(Base):
        def training_step(self, batch, batch_idx):
            x, y, mask = batch
            return F.cross_entropy(self(x[mask]), y[:, 0])

    module, (x, y, _) = Last(), padded(WHOLE)
    runner = StepRunner(module, None, module.training_step)
    for seed in range(2):
        places = torch.randint(0, STEPS, (ROWS,), generator=torch.Generator().manual_seed(seed))
        expected = F.cross_entropy(module(x[torch.arange(ROWS), places]), y[:, 0], reduction="none")
        batch = x, y, F.one_hot(places, STEPS).bool()
        torch.testing.assert_close(runner.measure(batch, {"loss"}).loss, expected.detach())


class Labelled(Base):
    """Rows without a label are left out."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        known = y > 0
        return F.cross_entropy(self(x)[known], y[known])


@pytest.mark.parametrize("labelled", [5, 4])
@pytest.mark.parametrize("later", [False, True])
def test_rows_that_a_step_leaves_out_cannot_be_selected(labelled: int, later: bool) -> None:
    x, _ = features()
    batch = x, (torch.arange(ROWS) < labelled).long()
    module = Labelled()
    runner = StepRunner(module, None, module.training_step)
    if later:  # a first batch from which nothing is left out is read like any other
        whole = torch.ones(ROWS).long()
        expected = F.cross_entropy(module(x), whole, reduction="none").detach()
        torch.testing.assert_close(runner.measure((x, whole), {"loss"}).loss, expected)
    with pytest.raises(TrainingStepContractError, match=r"of the module's own making \(\[\d\] for 8 rows\)"):
        runner.measure(batch, {"loss"})


def test_rows_that_a_step_leaves_in_can_be_reweighted() -> None:
    x, _ = features()
    seen: list[Tensor] = []

    def weighting(losses: Tensor) -> Tensor:
        seen.append(losses)
        return losses

    data = batches(*[(x, (torch.arange(ROWS) < labelled).long()) for labelled in (ROWS, 5, 4)])
    torch.manual_seed(1)
    module = Labelled()
    first = F.cross_entropy(module(x), torch.ones(ROWS).long(), reduction="none").detach()
    fit(module, LossReweighting(weighting), data=data, max_epochs=1)
    assert [len(losses) for losses in seen] == [ROWS, 5, 4]
    torch.testing.assert_close(seen[0], first)


def test_a_mask_that_changes_after_it_was_used_is_not_trusted() -> None:
    class Changing(Padded):
        def loss(self, z, y, mask):
            mask = mask.clone()
            z, y = z[mask], y[mask]
            mask[:, 1:] = False
            return F.cross_entropy(z, y)

    module = Changing()
    with pytest.raises(TrainingStepContractError, match="Changing.training_step must show one loss per row"):
        StepRunner(module, None, module.training_step).measure(padded(RAGGED), {"loss"})


def test_terms_of_another_size_in_a_later_batch() -> None:
    """Cut by hand, where nobody sees it: no error of torch may be all there is to read."""

    class Loop(Padded):
        def loss(self, z, y, mask):
            lengths = mask.sum(1).tolist()
            z = torch.cat([z[i, :length] for i, length in enumerate(lengths)])
            return F.cross_entropy(z, torch.cat([y[i, :length] for i, length in enumerate(lengths)]))

    module = Loop()
    runner = StepRunner(module, None, module.training_step)
    runner.measure(padded(WHOLE), {"loss"})
    with pytest.raises(TrainingStepContractError, match="must show one loss per row"):
        runner.measure(padded(RAGGED), {"loss"})
    fit(Loop, LossReweighting(torch.ones_like), data=batches(padded(WHOLE), padded(RAGGED)), max_epochs=1)
    module = Loop()
    with pytest.raises(TrainingStepContractError, match="must show one loss per row"):
        StepRunner(module, None, module.training_step).measure(padded(FOOLED), {"loss"})


CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mask": lambda x, m: x[m],
    "mask and the rest": lambda x, m: x[m, ...],
    "byte mask": lambda x, m: x[m.nonzero(as_tuple=True)],
    "mask and index": lambda x, m: x[m, torch.arange(int(m.sum())) % 3],
    "masked_select of named mask": lambda x, m: torch.masked_select(x[..., 0], mask=m),
    "nonzero": lambda x, m: torch.nonzero(m),
    "argwhere": lambda x, m: torch.argwhere(m),
    "nonzero of numbers": lambda x, m: (m * 2.5).nonzero(),
}


@pytest.mark.parametrize("name", CALLS)
def test_where_entries_come_from(name: str) -> None:
    mask = torch.tensor([[True, False, True, True], [False, False, False, False], [False, True, False, True]])
    x = torch.arange(3 * 4 * 3).reshape(3, 4, 3)
    with Capture() as capture:
        CALLS[name](x, mask)
    cuts = capture._cuts.noted
    assert torch.equal(cuts[0].positions, mask.flatten().nonzero().squeeze(1))
    assert torch.equal(cuts[0].inside, mask)
    restored = cuts[0].restore(x[mask])
    assert torch.equal(restored, x * mask[..., None])
    assert torch.equal(cuts[0].take(x[..., 0]), x[..., 0][mask])


@pytest.mark.parametrize(
    "call",
    [
        lambda x, m: x[0],
        lambda x, m: x[torch.tensor([0, 2])],
        lambda x, m: x[:, m[0]],
        lambda x, m: x[()],
        lambda x, m: x.index_select(0, torch.tensor([1])),
        lambda x, m: torch.where(m, x[..., 0], 0),
        lambda x, m: x[..., None],
    ],
)
def test_what_is_no_cut(call) -> None:
    mask = torch.tensor([[True, False, True, True], [False, False, False, False], [True, True, False, True]])
    with Capture() as capture:
        call(torch.zeros(3, 4, 3), mask)
    assert not capture._cuts.noted


def test_only_the_latest_cuts_are_remembered() -> None:
    x, mask = torch.zeros(4), torch.tensor([True, False, True, False])
    cuts = Cuts()
    for _ in range(100):
        cuts.note(torch.Tensor.__getitem__, (x, mask), {}, x[mask])
    assert len(cuts.noted) == 32


def test_layouts_say_that_a_mask_stands_before_the_terms() -> None:
    module = TimeFirst()
    assert StepRunner(module, None, module.training_step).probe(padded(RAGGED)).layouts == (Layout(1, masked=True),)
    module = Flat()
    assert StepRunner(module, None, module.training_step).probe(padded(RAGGED)).layouts == (
        Layout(0, inner=False, masked=True),
    )
