"""Each private name that we touch; a failure here says that it moved, and what depends on it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch import nn

from lightning_select import compat
from tests.fitting import fit, loader, trainer
from tests.modules import Added, Classifier, Manual


def test_logging_cadence_is_that_of_lightning() -> None:
    """``epoch_loop._batches_that_stepped``: if it moved, see ``should_update_logs`` of the logger connector."""
    due: list[tuple[bool, bool]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            due.append((compat.logs_at_this_step(trainer), trainer._logger_connector.should_update_logs))

    fit(Classifier, Watch(), log_every_n_steps=3)
    assert [mine for mine, _ in due] == [theirs for _, theirs in due]
    assert sum(mine for mine, _ in due) == 4


def test_batch_index_is_the_next_one() -> None:
    """``fit_loop.batch_idx``: the training step must be told the same number in the scoring pass."""
    seen: list[tuple[int, int]] = []

    class Watching(Classifier):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.expected = compat.next_batch_index(self.trainer)
            return batch

        def training_step(self, batch, batch_idx):
            seen.append((self.expected, batch_idx))
            return super().training_step(batch, batch_idx)

    fit(Watching)
    assert [mine for mine, _ in seen] == [theirs for _, theirs in seen] == [*range(6), *range(6)]


class Failing(pl.Callback):
    """Fails in a hook of one batch."""

    def __init__(self, hook: str, step: int) -> None:
        def fail(trainer: pl.Trainer, *args: Any) -> None:
            if trainer.fit_loop.total_batch_idx == step:
                raise ArithmeticError

        setattr(self, hook, fail)


# Lightning looks for the last checkpoint where a callback may write one.
@pytest.mark.filterwarnings(r"ignore:.*\.fit\(ckpt_path=")
def test_a_fit_that_starts_amid_an_epoch_is_known(tmp_path: Path) -> None:
    """``epoch_loop.batch_progress`` and ``restarting``: the first batch may be the short last one of an epoch."""
    seen: list[tuple[bool, bool]] = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.mine = compat.starts_amid_epoch(trainer)

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if self.mine is not None:
                # Where steps are counted and not epochs, Lightning numbers on after an epoch that is over.
                seen.append((self.mine, 0 < batch_idx < 6))
            self.mine = None

    def run(done: pl.Trainer, **kwargs: Any) -> None:
        done.fit(Classifier(), loader(), **kwargs)

    steps = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    ends = ModelCheckpoint(tmp_path, filename="end-{step}", save_on_train_epoch_end=True, save_top_k=-1)
    first = trainer(Watch(), steps, ends, enable_checkpointing=True)
    run(first)
    first.fit_loop.max_epochs = 3
    run(first)
    first.save_checkpoint(tmp_path / "by_hand.ckpt")
    for limit in ({"max_epochs": 4}, {"max_steps": 24, "max_epochs": -1}):
        for name in ("step=1", "step=5", "step=6", "step=7", "step=11", "end-step=6", "end-step=12", "by_hand"):
            run(trainer(Watch(), **limit), ckpt_path=tmp_path / f"{name}.ckpt")
    cut = trainer(Watch(), max_steps=8, max_epochs=-1)
    run(cut)
    cut.save_checkpoint(tmp_path / "cut.ckpt")
    cut.fit_loop.epoch_loop.max_steps = 11
    run(cut)
    run(trainer(Watch(), max_steps=11, max_epochs=-1), ckpt_path=tmp_path / "cut.ckpt")
    for hook in ("on_train_batch_start", "on_before_backward", "on_train_batch_end"):
        for step in (2, 5, 6):  # amid an epoch, in its last batch, in the first of the next
            failing = Failing(hook, step)
            name = f"{hook}-{step}"
            with pytest.raises(ArithmeticError):
                run(trainer(failing, OnExceptionCheckpoint(tmp_path, name), enable_checkpointing=True))
            run(trainer(Watch()), ckpt_path=tmp_path / f"{name}.ckpt")
    assert [mine for mine, _ in seen] == [theirs for _, theirs in seen]
    assert len(seen) == 30
    assert sum(mine for mine, _ in seen) >= 8


def test_compiled_modules_are_known_by_their_context() -> None:
    """``_compiler_ctx``: without it, a graph compiled as a whole gives away buffers that we need twice."""
    module = Added()
    assert not hasattr(torch._functorch.config, "nothing")
    with compat.keeping_buffers(module):
        assert torch._functorch.config.donated_buffer
    fit(torch.compile(module, backend="eager"))
    assert module._compiler_ctx is not None
    with compat.keeping_buffers(module):
        assert not torch._functorch.config.donated_buffer
    assert torch._functorch.config.donated_buffer


def test_a_small_trainer_says_nothing_and_keeps_the_rank(caplog) -> None:
    caplog.set_level("INFO")
    big = trainer()
    caplog.clear()
    with compat.quiet_trainer(big, max_epochs=1) as small:
        assert type(small) is pl.Trainer
        small.fit(Classifier(), loader())
    assert small.global_step == 6
    assert not [record for record in caplog.records if "available" in record.message]


def test_the_places_where_we_stand_are_called_as_we_expect() -> None:
    """``Strategy.batch_to_device`` and ``process_dataloader``, and a loader's ``batch_sampler``."""
    from lightning.pytorch.strategies import Strategy

    assert list(inspect.signature(Strategy.batch_to_device).parameters) == ["self", "batch", "device", "dataloader_idx"]
    assert list(inspect.signature(Strategy.process_dataloader).parameters) == ["self", "dataloader"]
    data = loader()
    drawn = []

    class Spy:
        def __iter__(self):
            drawn.append(1)
            yield [0, 1]

    vars(data)["batch_sampler"] = Spy()
    assert len(list(data)) == 1
    assert drawn == [1]
    assert isinstance(nn.Linear(1, 1).__dict__["training"], bool)


@pytest.mark.parametrize(("rank", "said"), [(0, "memory"), (2, "rank 2: memory")])
def test_a_rank_can_speak_for_itself(
    rank: int, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``rank_zero.log``: the logger of those who speak on the first rank only."""
    caplog.set_level("INFO")
    monkeypatch.setitem(vars(compat.rank_zero.rank_zero_only), "rank", rank)
    compat.rank_info("memory", rank)
    assert [record.message for record in caplog.records] == [said]


def test_training_loaders_are_counted() -> None:
    """``fit_loop._combined_loader.flattened``: row ids of several loaders would be mixed up."""
    counts = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            counts.append(compat.count_training_loaders(trainer))

    class Two(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["one"] if isinstance(batch, dict) else batch, batch_idx)

    fit(Two, Watch(), max_epochs=1, limit_train_batches=1)
    fit(Two, Watch(), max_epochs=1, limit_train_batches=1, data={"one": loader(), "two": loader()})
    assert counts == [1, 2]


def test_the_source_of_the_training_loader_can_be_asked() -> None:
    """``fit_loop._data_source``: a sampler inside a batch sampler is found there before Lightning replaces it."""
    found = []

    class Watch(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            found.append(compat.train_source(trainer).dataloader())

    data = loader()
    fit(Classifier, Watch(), max_epochs=1, data=data)
    assert found == [data]


def test_planned_steps_are_those_that_lightning_estimates() -> None:
    data = loader()
    for settings in (
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 4},
        {"max_epochs": 2, "limit_train_batches": 4},
        {"max_epochs": 2, "limit_train_batches": 0.4},
        {"max_epochs": -1, "max_steps": 5},
        {"max_epochs": 2, "max_steps": 5},
    ):
        done = fit(Classifier, data=data, **settings)
        assert compat.planned_steps(done, data) == done.estimated_stepping_batches == done.global_step
    assert compat.planned_steps(trainer(max_epochs=-1), data) is None


@pytest.mark.parametrize(("epochs", "steps", "by_batches"), [(2, -1, True), (-1, 24, False)])
def test_steps_are_batches_where_only_epochs_bound_manual_optimisation(
    epochs: int, steps: int, by_batches: bool
) -> None:
    class Twice(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)
            super().training_step(batch, batch_idx)

    class Counts(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *rest: Any) -> None:
            before.append(compat.steps_so_far(trainer))

        def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
            after.append(compat.steps_so_far(trainer))

    before: list[int] = []
    after: list[int] = []
    done = fit(Twice, Counts(), max_epochs=epochs, max_steps=steps)
    each = 1 if by_batches else 2
    assert before == [each * one for one in range(12)]
    assert after == [each * one for one in range(1, 13)]
    assert done.estimated_stepping_batches == after[-1]


def test_a_module_knows_its_trainer() -> None:
    """``_trainer``: after a fit that ended amid a callback's ``on_exception``, our wraps would act in the next one."""
    module = Classifier()
    assert compat.trainer_of(module) is None
    done = fit(module)
    assert compat.trainer_of(module) is done


def test_what_the_framework_hangs_on_a_module_is_known() -> None:
    """``TRAINER_LINKS``: what is not named here is kept and put back by scoring as if it were the user's."""

    class Kept(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()

    module = Kept()
    module.trainer = trainer()
    assert set(vars(module)) >= compat.TRAINER_LINKS
    assert vars(module)["_trainer"] is module.trainer


def test_a_copy_of_a_compiled_module_is_made_to_forget_it() -> None:
    """``_compiler_ctx``: a reference that is trained on the side would call the compiled step of the original."""
    module = Added()
    assert compat.uncompiled(module) is module
    fit(torch.compile(module, backend="eager"))
    assert module._compiler_ctx is not None
    assert compat.uncompiled(module)._compiler_ctx is None


def test_callbacks_are_those_of_both_namespaces_whichever_came_first() -> None:
    """``isinstance(callback, pytorch_lightning.Callback)``: before 2.6 its Trainer takes no other."""
    pytest.importorskip("pytorch_lightning")
    code = """
import sys
from lightning_select import LossReweighting
from lightning_select.weightings.focal import Focal
early = LossReweighting(Focal())
assert "pytorch_lightning" not in sys.modules
import pytorch_lightning as old
trainer = old.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[early])
assert isinstance(early, old.Callback)
assert sum(type(one).__name__ == "SamplerFeedback" for one in trainer.callbacks) == 1
import lightning.pytorch as new
assert isinstance(early, new.Callback)
new.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[early])
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
