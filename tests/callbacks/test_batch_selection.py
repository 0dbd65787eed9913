from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_select import BatchSelection
from lightning_select.callbacks.keep import kept_count
from lightning_select.errors import ArgumentError
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.schedule import Anneal, Schedule
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.importance import Importance
from lightning_select.selectors.percentile import Percentile
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.holdout import Holdout
from tests.fitting import SAFELY, First, Rows, fit, loader, same, trainer, weights_of
from tests.modules import Base, Classifier, features


class Sizes(Classifier):
    """Notes how many rows its training step sees."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch[0]))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("keep", "rows"), [(0.5, 4), (0.25, 2), (3, 3), (0.01, 1), (1, 1), (1.0, 8), (0.19, 2)])
def test_the_step_sees_the_kept_rows_and_nothing_else(keep: Any, rows: int) -> None:
    done = fit(Sizes, BatchSelection(Loss(), TopK(), keep=keep))
    assert done.lightning_module.sizes == [rows] * 12


def test_every_hook_sees_the_kept_rows() -> None:
    seen: dict[str, int] = {}

    class Hooks(Classifier):
        def on_train_batch_start(self, batch, batch_idx):
            seen["module start"] = len(batch[0])

        def on_train_batch_end(self, outputs, batch, batch_idx):
            seen["module end"] = len(batch[0])

    class Other(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen["callback start"] = len(batch[0])

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen["callback end"] = len(batch[0])

    fit(Hooks, Other(), BatchSelection(Loss(), TopK(), keep=3))
    assert seen == dict.fromkeys(("module start", "module end", "callback start", "callback end"), 3)


def test_validation_is_left_alone() -> None:
    class Validating(Sizes):
        def validation_step(self, batch, batch_idx):
            self.log("rows", float(len(batch[0])))

    torch.manual_seed(0)
    module = Validating()
    done = trainer(BatchSelection(Loss(), TopK(), keep=3))
    done.fit(module, loader(), loader(shuffle=False))
    assert done.callback_metrics["rows"] == 8
    assert set(module.sizes) == {3}


def test_a_data_module_with_hooks_of_its_own() -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return loader()

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] * 2, batch[1]

    torch.manual_seed(0)
    module = Sizes()
    done = trainer(BatchSelection(Loss(), TopK(), keep=3))
    done.fit(module, datamodule=Data())
    assert module.sizes == [3] * 12


def test_the_schedule_and_a_share_that_moves() -> None:
    callback = BatchSelection(
        Loss(), TopK(), keep=Anneal(1.0, 0.25, start=4, stop=8), schedule=Schedule(start=2, stop=11, every=2)
    )
    assert fit(Sizes, callback).lightning_module.sizes == [8, 8, 8, 8, 8, 8, 5, 8, 2, 8, 2, 8]


def test_kept_count() -> None:
    assert [kept_count(0.5, n) for n in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert kept_count(10, 4) == 4


def test_a_function_is_a_score_too() -> None:
    seen = []

    def by_class(signals):
        seen.append(signals.measured)
        return -signals.targets.float()

    class Watching(Sizes):
        def training_step(self, batch, batch_idx):
            if torch.is_grad_enabled() and len(batch[1]) == 2:
                seen.append(int(batch[1].max()))
            return super().training_step(batch, batch_idx)

    fit(Watching, BatchSelection(by_class, TopK(), keep=2))
    assert ("loss", "logits", "targets", "valid") in seen
    assert max(value for value in seen if isinstance(value, int)) <= 2


def test_what_is_logged() -> None:
    done = fit(Classifier, BatchSelection(Loss(), TopK(), keep=2, name="mine"))
    metrics = {k: float(v) for k, v in done.callback_metrics.items() if k.startswith("mine/")}
    names = ("active", "kept_share", "score_kept", "score_dropped", "not_finite", "scoring_seconds")
    assert set(metrics) == {f"mine/{name}" for name in names}
    assert metrics["mine/kept_share"] == 0.25
    assert metrics["mine/score_kept"] > metrics["mine/score_dropped"]
    assert 0 < metrics["mine/scoring_seconds"] < 5
    assert not any(key.startswith("mine/") for key in done.progress_bar_metrics)


def test_a_selector_with_weights_logs_them_and_has_them_applied() -> None:
    done = fit(Classifier, BatchSelection(Loss(), First(lambda n: torch.arange(1.0, n + 1)), keep=4))
    assert done.callback_metrics["batch_selection/weight_max"] == 4

    class ByHand(Base):
        def training_step(self, batch, batch_idx):
            x, y = batch[0][:4], batch[1][:4]
            return (torch.arange(1.0, 5) * F.cross_entropy(self(x), y, reduction="none")).mean()

    for key, value in weights_of(fit(ByHand)).items():
        torch.testing.assert_close(weights_of(done)[key], value)


def test_draws_are_a_function_of_the_seed_and_the_step() -> None:
    def run(seed: int) -> dict[str, torch.Tensor]:
        return weights_of(fit(Classifier, BatchSelection(Loss(), Percentile(), keep=3, seed=seed)))

    assert same(run(0), run(0))
    assert not same(run(0), run(1))


SELECTIONS = {
    "diverse": lambda: BatchSelection(NuclearNorm(), Diverse(capacity=16), keep=3),
    "greedy": lambda: BatchSelection(NuclearNorm(), Diverse(capacity=16, greedy=True), keep=3),
    "importance": lambda: BatchSelection(Loss(), Importance(threshold=1.02), keep=3),
    "percentile": lambda: BatchSelection(Loss(), Percentile(), keep=3),
    "holdout": lambda: BatchSelection(ReducibleLoss(Holdout(epochs=1)), TopK(), keep=3),
}


HARD = pytest.mark.filterwarnings("ignore:ReducibleLoss.reference must know the data better")
"""Random labels: a reference cannot know them."""


@HARD
@pytest.mark.parametrize("kind", SELECTIONS)
def test_law_2_a_resumed_fit_is_the_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    straight = weights_of(fit(Classifier, SELECTIONS[kind](), max_epochs=4, data=loader(shuffle=False)))
    first = fit(Classifier, SELECTIONS[kind](), max_epochs=2, data=loader(shuffle=False))
    first.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert any("BatchSelection" in key and "batch_selection" in key for key in saved["callbacks"])
    torch.manual_seed(99)
    second = trainer(SELECTIONS[kind](), max_epochs=4)
    second.fit(Classifier(), loader(shuffle=False), ckpt_path=tmp_path / "half.ckpt", **SAFELY)
    assert same(straight, weights_of(second))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_law_2_the_memory_too_is_the_same(precision: str, tmp_path: Path) -> None:
    """The first batch after a resume is read like every other."""

    def memory(callback: BatchSelection) -> dict[str, torch.Tensor]:
        (state,) = callback.state_dict()["selector"]
        return state

    straight, second = SELECTIONS["greedy"](), SELECTIONS["greedy"]()
    fit(Classifier, straight, max_epochs=4, data=loader(shuffle=False), precision=precision)
    first = fit(Classifier, SELECTIONS["greedy"](), max_epochs=2, data=loader(shuffle=False), precision=precision)
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = trainer(second, max_epochs=4, precision=precision)
    resumed.fit(Classifier(), loader(shuffle=False), ckpt_path=tmp_path / "half.ckpt", **SAFELY)
    expected, found = memory(straight), memory(second)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_second_fit_does_not_remember_the_first() -> None:
    callback = SELECTIONS["diverse"]()
    once = weights_of(fit(Classifier, callback))
    assert same(once, weights_of(fit(Classifier, callback)))


@HARD
def test_a_holdout_is_trained_once_and_leaves_the_fit_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(score: Any) -> pl.Trainer:
        return fit(Classifier, BatchSelection(score, First(), keep=4))

    caplog.set_level("INFO", logger="lightning.pytorch")
    assert same(weights_of(run(ReducibleLoss(Holdout(epochs=2)))), weights_of(run(Loss())))
    assert sum("training two reference models for 2 epochs" in record.message for record in caplog.records) == 1


def test_a_table_is_asked_for_the_rows_of_the_batch() -> None:
    """The label is the id, so what the table says must arrive at the right row, whatever the order and the workers."""
    rows = 48
    x = features(rows=rows)[0]
    table = torch.randperm(rows).float() / 100
    seen = []

    class Numbered(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return rows

        def __getitem__(self, position: int):
            return x[position], torch.tensor(position)

    class Regression(Base):
        def training_step(self, batch, batch_idx):
            return F.mse_loss(self(batch[0])[:, 0], torch.zeros(len(batch[0])))

    class Spy(TopK):
        def __call__(self, scores, count, context):
            seen.append((context.signals.ids, context.signals.reference_loss))
            return super().__call__(scores, count, context)

    for workers in (0, 2):
        seen.clear()
        batches = []

        class Noting(Regression):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                batches.append(batch[1].clone())  # noqa: B023 (used at once)
                return batch

        data = torch.utils.data.DataLoader(Numbered(), batch_size=8, shuffle=True, num_workers=workers)
        fit(Noting, BatchSelection(ReducibleLoss(table), Spy(), keep=4), data=data)
        assert len(seen) == len(batches) == 12
        for (ids, reference), labels in zip(seen, batches, strict=True):
            assert ids.dtype == torch.int64
            assert torch.equal(ids, labels)
            torch.testing.assert_close(reference, table[labels])


@pytest.mark.parametrize("kind", ["module", "checkpoint", "state dict", "table file", "numpy file", "mapping"])
def test_references_of_every_kind_say_the_same(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    known = Classifier()
    fit(known, max_epochs=60)
    data = loader(shuffle=False)
    x, y = data.dataset.batch
    with torch.no_grad():
        table = F.cross_entropy(known(x), y, reduction="none")
    reference: Any = known
    if kind == "checkpoint":
        done = trainer(max_epochs=0)
        done.fit(known, data)
        done.save_checkpoint(tmp_path / "known.ckpt")
        reference = str(tmp_path / "known.ckpt")
    elif kind == "state dict":
        torch.save(known.state_dict(), tmp_path / "known.pt")
        reference = tmp_path / "known.pt"
    elif kind == "table file":
        torch.save(table, tmp_path / "table.pt")
        reference = tmp_path / "table.pt"
    elif kind == "numpy file":
        __import__("numpy").save(tmp_path / "table.npy", table.numpy())
        reference = tmp_path / "table.npy"
    elif kind == "mapping":
        reference = {position: float(value) for position, value in enumerate(table)}
    expected = fit(Classifier, BatchSelection(ReducibleLoss(table), TopK(), keep=3), data=loader())
    got = fit(Classifier, BatchSelection(ReducibleLoss(reference), TopK(), keep=3), data=loader())
    assert same(weights_of(expected), weights_of(got))


def test_a_reference_of_zeros_is_the_loss_itself() -> None:
    zero = fit(Classifier, BatchSelection(ReducibleLoss(torch.zeros(48)), TopK(), keep=3))
    assert same(weights_of(zero), weights_of(fit(Classifier, BatchSelection(Loss(), TopK(), keep=3))))


def test_two_loaders_have_no_common_ids() -> None:
    class Two(Base):
        def training_step(self, batch, batch_idx):
            x, y = batch["a"]
            return F.cross_entropy(self(x), y)

    data = {"a": loader(), "b": loader()}
    with pytest.raises(Exception, match="there are 2 training loaders"):
        fit(Two, BatchSelection(ReducibleLoss(torch.zeros(48)), TopK(), keep=3), data=data)


def test_a_checkpoint_holds_tensors_and_primitives_only(tmp_path: Path) -> None:
    done = fit(Classifier, BatchSelection(NuclearNorm(), Diverse(capacity=16), keep=3))
    done.save_checkpoint(tmp_path / "held.ckpt")
    held = torch.load(tmp_path / "held.ckpt", weights_only=True)["callbacks"]
    (state,) = (value for key, value in held.items() if "BatchSelection" in key)
    assert state["selector"][0]["memory"].shape[0] == 16


def test_a_run_that_goes_on_with_the_short_last_batch_of_an_epoch_may_keep_fewer(tmp_path: Path) -> None:
    def run(**kwargs: Any) -> dict[str, torch.Tensor]:
        data = loader(rows=33, size=8, shuffle=False, sampler=LossProportional(33))
        saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        torch.manual_seed(1)
        done = trainer(BatchSelection(Loss(), TopK(), keep=4), saves, enable_checkpointing=True)
        done.fit(Classifier(), data, **kwargs)
        return weights_of(done)

    whole = run()
    assert same(run(ckpt_path=tmp_path / "step=4.ckpt"), whole)
    with pytest.raises(ArgumentError, match="keep must be at most the rows of a batch"):
        fit(Classifier, BatchSelection(Loss(), TopK(), keep=9))


@pytest.mark.parametrize("step", [0, 2, 5, 6, 8])
def test_a_run_that_goes_on_with_more_to_keep_than_a_batch_has_is_refused(step: int, tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(Classifier, BatchSelection(Loss(), TopK(), keep=4), saves, enable_checkpointing=True)
    more = trainer(BatchSelection(Loss(), TopK(), keep=9), max_epochs=3)
    with pytest.raises(ArgumentError, match=r"keep must be at most the rows of a batch \(8\), got 9"):
        more.fit(Classifier(), loader(), ckpt_path=tmp_path / f"step={step}.ckpt" if step else None)
    assert more.global_step == -(-step // 6) * 6


class Buckets:
    """Batches of other sizes, of which an even epoch begins with a whole one and an odd one with few rows."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        sizes, begin = ((8, 8, 4, 8), (4, 8, 8, 8))[self.epoch % 2], 0
        self.epoch += 1
        for size in sizes:
            yield list(range(begin, begin + size))
            begin += size


def test_a_resumed_run_may_begin_with_a_batch_of_few_rows_where_batches_have_any_size(tmp_path: Path) -> None:
    def run(epoch: int, **kwargs: Any) -> dict[str, torch.Tensor]:
        data = DataLoader(Rows(rows=28), batch_sampler=Buckets(epoch))
        saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_on_train_epoch_end=True, save_top_k=-1)
        torch.manual_seed(1)
        done = trainer(BatchSelection(Loss(), TopK(), keep=6), saves, enable_checkpointing=True)
        done.fit(Classifier(), data, **kwargs)
        return weights_of(done)

    whole = run(0)
    assert same(run(1, ckpt_path=tmp_path / "epoch=0.ckpt"), whole)


def test_a_second_fit_with_more_to_keep_than_a_batch_has_is_refused() -> None:
    pick = BatchSelection(Loss(), TopK(), keep=4)
    done = fit(Classifier, pick)
    pick.keep, done.fit_loop.max_epochs = 9, 3
    with pytest.raises(ArgumentError, match="keep must be at most the rows of a batch"):
        done.fit(done.lightning_module, loader())


def test_an_error_amid_the_tuner_leaves_nothing_on_the_module(tmp_path: Path) -> None:
    class Sick(Classifier):
        lr = 0.1

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                raise ValueError("enough")
            return super().training_step(batch, batch_idx)

    module, before = Sick(), set(vars(Sick()))
    done = trainer(BatchSelection(Loss(), TopK(), keep=2), default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="enough"):
        pl.tuner.Tuner(done).lr_find(module, loader(), num_training=5)
    assert not {"training_step"} & set(vars(module)) - before


def test_a_step_that_fails_in_evaluation_mode_alone_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    class Auxiliary(Base):
        def training_step(self, batch, batch_idx):
            z, _ = (self(batch[0]), 0) if self.training else (self(batch[0]),)
            return F.cross_entropy(z, batch[1])

    caplog.set_level("INFO")
    with pytest.raises(ValueError, match="not enough values"):
        fit(Auxiliary, BatchSelection(Loss(), First(), keep=4))
    assert len([line for line in caplog.messages if "Auxiliary: the step failed in evaluation mode" in line]) == 1
    caplog.clear()
    fit(Auxiliary, BatchSelection(Loss(), First(), keep=4, train_mode=True), max_epochs=1)
    with pytest.raises(ArgumentError, match="at most the rows"):
        fit(Classifier, BatchSelection(Loss(), First(), keep=40))
    assert not [line for line in caplog.messages if "evaluation mode" in line]
