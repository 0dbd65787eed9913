"""torchdata's StatefulDataLoader saves its own position; with a sampler of ours, ours is the one that counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_select import BatchSelection
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.callbacks.test_sampler_feedback import ROWS, SIZE, run
from tests.fitting import Rows, same, weights_of
from tests.samplers.toy import Weighted

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # called by torchdata
stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("callbacks", [(), (BatchSelection(Loss(), TopK(), keep=1.0),)], ids=["alone", "stacked"])
def test_it_resumes_bit_for_bit(workers: int, callbacks: Any, tmp_path: Path) -> None:
    def fit(folder: Path, ckpt: Any = None) -> Any:
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        data = stateful.StatefulDataLoader(Rows(rows=ROWS), SIZE, sampler=Weighted(ROWS), num_workers=workers)
        return run(None, keep, *callbacks, data=data, ckpt=ckpt, enable_checkpointing=True)

    whole, journal = fit(tmp_path / "whole")
    for step in (3, 7, 12):
        again, rest = fit(tmp_path / str(step), tmp_path / "whole" / f"step={step}.ckpt")
        assert rest.ids == journal.ids[step:]
        assert same(weights_of(again), weights_of(whole))
