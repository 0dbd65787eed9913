"""Traps of batches, hooks, logging and numerics, in one process."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting
from lightning_select.batch import take_rows
from lightning_select.samplers.info_batch import InfoBatch
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.callbacks.test_loss_reweighting import FORMS
from tests.callbacks.test_sampler_feedback import ROWS, run
from tests.fitting import First, Rows, fit, loader, trainer, weights_of
from tests.modules import FEATURES, Base, Classifier, NoneThenMean, features
from tests.samplers.toy import ByLastLoss
from tests.test_laws import Busy


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_taken_from_a_batch_of_any_form_and_the_loaders_batch_stays(form: str) -> None:
    pack, unpack = FORMS[form]
    seen: list[Any] = []

    class Theirs(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = unpack(batch)
            seen.append((type(batch), len(x)))
            return F.cross_entropy(self(x), y)

    batch = pack(*features())
    for callbacks in ([], [BatchSelection(Loss(), TopK(), keep=3)]):
        data = DataLoader([batch], batch_size=None, collate_fn=lambda one: one)
        fit(Theirs, *callbacks, data=data, max_epochs=1)
    assert seen[0] == (type(batch), 8)
    assert seen[-1] == (type(batch), 3)
    before, after = unpack(pack(*features())), unpack(batch)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_evaluation_and_prediction_see_whole_batches_and_the_hooks_of_the_data() -> None:
    sizes: dict[str, set[int]] = {"train": set(), "test": set(), "predict": set()}

    class Data(pl.LightningDataModule):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0], batch[1], len(batch[0])

    class Seen(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            sizes["train"].add(batch[2] if isinstance(batch[2], int) else -1)
            return F.cross_entropy(self(batch[0]), batch[1])

        def test_step(self, batch: Any, batch_idx: int) -> None:
            sizes["test"].add(len(batch[0]))

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            sizes["predict"].add(len(batch[0]))
            return batch[0]

    class Loads(Data):
        def train_dataloader(self) -> Any:
            return loader()

        test_dataloader = predict_dataloader = train_dataloader

    module, done = Seen(), trainer(BatchSelection(Loss(), TopK(), keep=3), LossReweighting(lambda losses: losses))
    done.fit(module, datamodule=Loads())
    done.test(module, datamodule=Loads(), verbose=False)
    done.predict(module, datamodule=Loads())
    assert sizes["test"] == sizes["predict"] == {8}
    assert sizes["train"] == {8}  # a number beside the rows is no row


class Halves(pl.Callback):
    """Cuts every batch to its first half by hand."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.on_after_batch_transfer = lambda batch, _: take_rows(batch, torch.arange(len(batch[0]) // 2))


def test_metrics_of_an_epoch_are_those_of_the_rows_trained_on_by_their_number() -> None:
    """Batches of 8 and a last one of 4: what scoring logged would change values, or the size that they count with."""
    data = [loader(rows=44, drop_last=False) for _ in range(2)]
    by_hand = fit(Busy, Halves(), data=data[0])
    ours = fit(Busy, BatchSelection(Loss(), First(), keep=0.5), data=data[1])
    assert {"loss_epoch", "accuracy", "MulticlassPrecision"} <= ours.callback_metrics.keys()
    for key, value in by_hand.callback_metrics.items():
        assert torch.equal(ours.callback_metrics[key], value), key


def test_losses_heard_are_not_divided_by_the_batches_that_gradients_add_up_over() -> None:
    one, four = ByLastLoss(ROWS), ByLastLoss(ROWS)
    run(one, max_steps=1)
    run(four, max_steps=1, accumulate_grad_batches=4)
    assert one.heard[0] == four.heard[0]


def test_micro_batches_count_by_the_rows_that_are_kept() -> None:
    """Two micro-batches of 3 kept rows make the step of one batch of the 6."""
    x, y = features(rows=16)
    halves = DataLoader([(x[:8], y[:8]), (x[8:], y[8:])], batch_size=None)
    kept = torch.tensor([0, 1, 2, 8, 9, 10])
    settings = {"max_epochs": 1}
    two = fit(NoneThenMean, BatchSelection(Loss(), First(), keep=3), data=halves, accumulate_grad_batches=2, **settings)
    one = fit(NoneThenMean, data=DataLoader([(x[kept], y[kept])], batch_size=None), **settings)
    for key, value in weights_of(one).items():
        torch.testing.assert_close(weights_of(two)[key], value)


def test_an_optimizer_that_asks_for_the_loss_several_times_teaches_a_sampler_once() -> None:
    class Newton(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), max_iter=3, lr=0.1)

    sampler = InfoBatch(ROWS)
    done, journal = run(sampler, module=Newton())
    assert sampler.updates == done.global_step == len(journal.ids) == 14
    visits = torch.bincount(torch.tensor([row for ids in journal.ids for row in ids]), minlength=ROWS)
    assert torch.equal(sampler.history.count, visits.to(sampler.history.count.dtype))


def test_scoring_has_the_precision_of_training() -> None:
    class Notes(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            out = self(batch[0])
            seen.append((torch.is_grad_enabled(), out.dtype, out.is_inference()))
            return F.cross_entropy(out, batch[1])

    for precision, dtype in (("bf16-mixed", torch.bfloat16), ("bf16-true", torch.bfloat16), ("64-true", torch.float64)):
        seen: list[Any] = []
        fit(Notes, BatchSelection(Loss(), TopK(), keep=3), precision=precision, max_epochs=1)
        assert {grad for grad, _, _ in seen} == {True, False}
        assert {kind for _, kind, _ in seen} == {dtype}
        assert not any(inference for _, _, inference in seen)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_what_is_remembered_of_rows_is_float32(precision: str) -> None:
    heard: list[torch.dtype] = []

    class Notes(ByLastLoss):
        def learn(self, ids: Tensor, signals: Any) -> None:
            heard.append(signals["loss"].dtype)
            super().learn(ids, signals)

    run(Notes(ROWS), precision=precision, max_epochs=1)
    assert set(heard) == {torch.float32}


def test_weights_are_in_the_loss_that_a_scaler_scales() -> None:
    def train(scale: float, *callbacks: Any) -> dict[str, Tensor]:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
        return weights_of(fit(Classifier, *callbacks, plugins=[MixedPrecision("16-mixed", "cpu", scaler)]))

    small, large = (train(scale, LossReweighting(lambda losses: losses)) for scale in (1.0, 2.0**10))
    for key, value in small.items():
        torch.testing.assert_close(large[key], value, rtol=1e-2, atol=1e-3)
    assert any((train(1.0)[key] - value).abs().max() > 5e-3 for key, value in small.items())


def test_candidates_are_scored_in_one_pass() -> None:
    class Sizes(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append(len(batch[0]))
            return F.cross_entropy(self(batch[0]), batch[1])

    seen: list[int] = []
    fit(Sizes, BatchSelection(Loss(), TopK(), keep=3))
    assert seen[-22:] == [8, 3] * 11  # of 12 batches; the first shows where rows are


@pytest.mark.parametrize(
    "callback",
    [BatchSelection(Loss(), TopK(), keep=3), LossReweighting(lambda losses: losses)],
    ids=["selection", "reweighting"],
)
def test_a_compiled_network_is_not_compiled_again_and_again(callback: Any) -> None:
    """Batches keep their size, and the modes in which the network runs are few."""
    compiled: list[int] = []
    steps = [0]

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(steps[0])
        return graph

    class Compiled(Base):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(nn.Linear(FEATURES, 4), backend=backend)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def on_train_batch_end(self, *rest: Any) -> None:
            steps[0] += 1

    torch.compiler.reset()
    fit(Compiled, callback)
    assert steps[0] == 12
    if not compiled and torch.__version__ < "2.7":
        pytest.skip("this torch compiles nothing that runs below a function mode: the network runs as it is")
    assert compiled
    assert max(compiled) <= 1


def test_a_module_compiled_as_a_whole_is_handed_back_as_it_was() -> None:
    from lightning.pytorch.utilities.compile import to_uncompiled

    torch.manual_seed(1)
    plain = NoneThenMean()
    step = plain.training_step
    whole: Any = torch.compile(plain, backend="eager")
    fit(whole, BatchSelection(Loss(), First(), keep=4), LossReweighting(lambda losses: losses))
    assert to_uncompiled(plain).training_step == step
    fit(plain, BatchSelection(Loss(), First(), keep=4), max_epochs=1)
    assert "training_step" not in vars(plain) or plain.training_step == step


def test_copies_of_a_loader_are_made_amid_a_fit() -> None:
    import copy
    import pickle

    twins: list[Any] = []

    class Copies(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            data = trainer.train_dataloader
            twins.extend([copy.deepcopy(data), pickle.loads(pickle.dumps(data))])

    run(ByLastLoss(Rows(rows=ROWS)), Copies(), max_steps=1)
    assert [len(list(twin)) for twin in twins] == [len(twin) for twin in twins] == [7, 7]
