"""Traps of checkpoints: strategies that restore late, and what a checkpoint may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting, SelectionReport
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.errors import ConfigurationError
from lightning_select.samplers.repeated_random import RepeatedRandom
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.callbacks.test_sampler_feedback import ROWS, run
from tests.fitting import Rows, loader, same, trainer, weights_of
from tests.modules import Classifier
from tests.samplers.toy import Weighted


class Late(SingleDeviceStrategy):
    """Restores callbacks when it is set up, as strategies that shard weights do."""

    restore_checkpoint_after_setup = True


class Plans(Classifier):
    """Asks in advance how long training will be, which makes the loader before anything is restored."""

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches == 14
        return super().configure_optimizers()


def resumed(module: type[Classifier], workers: int, folder: Path) -> tuple[Any, Any]:
    """A run, and one that goes on with its third step; the rows and weights of each."""

    def fit(ckpt: Any = None) -> Any:
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        data = DataLoader(Rows(rows=ROWS), 8, sampler=Weighted(ROWS), num_workers=workers)
        settings = {"enable_checkpointing": True, "strategy": Late(device="cpu"), "accelerator": "auto"}
        done, journal = run(None, keep, module=module(), data=data, ckpt=ckpt, **settings)
        return journal.ids, journal.weights, weights_of(done)

    return fit(), fit(folder / "step=3.ckpt")


@pytest.mark.parametrize(("module", "workers"), [(Classifier, 0), (Classifier, 1), (Plans, 0)])
def test_a_strategy_that_restores_late_goes_on_bit_for_bit(
    module: type[Classifier], workers: int, tmp_path: Path
) -> None:
    (ids, drawn, whole), (rest, held, again) = resumed(module, workers, tmp_path)
    assert rest == ids[3:]
    assert held == drawn[3:]
    assert same(again, whole)


def test_where_workers_have_drawn_before_it_restores_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Weighted must get its state back before it draws, got a loader that"):
        resumed(Plans, 1, tmp_path)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in (*value, *value.values()) for leaf in leaves(part)]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def test_every_callback_has_a_key_of_its_own_and_keeps_tensors_and_primitives(tmp_path: Path) -> None:
    ours = [
        BatchSelection(Loss(), TopK(), keep=0.5, name="one"),
        BatchSelection(Loss(), TopK(), keep=0.5, name="two"),
        LossReweighting(lambda losses: losses, name="three"),
        LossReweighting(lambda losses: losses, name="four"),
        SelectionReport(tmp_path / "report"),
        SamplerFeedback(),
    ]
    data = DataLoader(Rows(rows=ROWS), 8, sampler=Weighted(ROWS))
    done = trainer(*ours, max_epochs=1, default_root_dir=tmp_path)
    done.fit(Classifier(), data)
    done.save_checkpoint(tmp_path / "all.ckpt")
    states = torch.load(tmp_path / "all.ckpt", weights_only=True)["callbacks"]
    assert len({callback.state_key for callback in ours}) == len(ours)
    assert {callback.state_key for callback in ours if callback.state_dict()} == states.keys()
    kinds = (Tensor, str, int, float, bool, type(None))
    assert all(isinstance(leaf, kinds) for state in states.values() for leaf in leaves(state))


def test_the_state_that_is_saved_is_not_what_training_goes_on_with() -> None:
    """Lightning copies what it loads, and hands out what it saves: a loader of ours is not to change it later."""
    sampler = Weighted(ROWS)
    done, _ = run(sampler, max_epochs=1)
    feedback = next(one for one in done.callbacks if isinstance(one, SamplerFeedback))
    state = feedback.state_dict()
    before = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves(state)]
    done.fit_loop.max_epochs = 2
    done.fit(done.lightning_module, DataLoader(Rows(rows=ROWS), 8, sampler=sampler))
    for then, now in zip(before, leaves(state), strict=True):
        assert torch.equal(then, now) if isinstance(then, Tensor) else then == now


def test_a_run_without_rows_of_ours_saves_no_state_of_rows(tmp_path: Path) -> None:
    done = trainer(LossReweighting(lambda losses: losses), max_epochs=1)
    done.fit(Classifier(), loader())
    done.save_checkpoint(tmp_path / "one.ckpt")
    states = torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"]
    assert not any(isinstance(leaf, Tensor) for leaf in leaves(states))


@pytest.mark.parametrize(("every", "lost"), [(3, True), (4, False)])
def test_lightning_loses_the_gradients_of_micro_batches_and_the_rows_go_on(
    every: int, lost: bool, tmp_path: Path
) -> None:
    """If it no longer does, the pages can say so."""

    class Validates(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    def fit(*callbacks: Any, ckpt: Any = None) -> tuple[Any, list[Any]]:
        seen: list[Any] = []

        class Sees(Validates):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                seen.append(batch[0].tolist())
                return super().training_step(batch, batch_idx)

        torch.manual_seed(1)
        data = DataLoader(Rows(rows=48), 8, sampler=RepeatedRandom(48, fraction=1.0))
        settings = {"max_epochs": 1, "accumulate_grad_batches": 2, "val_check_interval": every}
        saves = {"enable_checkpointing": True, "num_sanity_val_steps": 0} if callbacks else {"num_sanity_val_steps": 0}
        done = trainer(*callbacks, **settings, **saves)
        done.fit(Sees(), data, loader(rows=8), ckpt_path=ckpt)
        return done, seen

    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, save_on_train_epoch_end=False)
    whole, rows = fit(keep)
    again, rest = fit(ckpt=tmp_path / f"step={every // 2}.ckpt")
    assert rest == rows[every:]
    assert same(weights_of(again), weights_of(whole)) is not lost
