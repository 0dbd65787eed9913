from __future__ import annotations

import time

import lightning.pytorch as pl

from lightning_select.app.compare.counting import RowCount
from lightning_select.app.compare.recorder import Recorder
from tests.app import tiny


class Slow(pl.Callback):
    """Takes its time before training (as a reference model does), in each step, and in each evaluation."""

    def on_train_start(self, *args) -> None:
        time.sleep(0.2)

    def on_train_batch_end(self, *args) -> None:
        time.sleep(0.05)

    def on_validation_batch_end(self, *args) -> None:
        time.sleep(1.0)


def test_the_clock_runs_from_the_start_and_stands_still_in_evaluations() -> None:
    recorder = Recorder("val/acc", RowCount(), "flipped")
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[recorder, Slow()],
        max_steps=4,
        val_check_interval=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(tiny.Module(), datamodule=tiny.Data())
    assert [point.step for point in recorder.points] == [2, 4]
    assert 0.3 <= recorder.points[0].seconds < 0.9
    assert 0.1 <= recorder.points[1].seconds - recorder.points[0].seconds < 0.7
    assert recorder.points[1].seconds <= recorder.seconds < 1.2
    assert recorder.rows_per_step(4) == 8
