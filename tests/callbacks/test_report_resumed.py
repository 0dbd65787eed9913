"""The table of a report that goes on from a checkpoint is that of a run that was never interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, SelectionReport
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.grad_norm import GradNorm
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.top_k import TopK
from tests.fitting import Rows, same, trainer
from tests.modules import Classifier


def run(folder: Path, score: Any, checkpoint: Path | None = None) -> tuple[str, dict[str, Any]]:
    torch.manual_seed(1)
    module, data = Classifier(), Rows()
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    callbacks = BatchSelection(score, TopK(), keep=0.5), SelectionReport(folder / "report"), keep
    fitting = trainer(*callbacks, max_epochs=3, enable_checkpointing=True)
    resumed = {} if checkpoint is None else {"ckpt_path": checkpoint}
    fitting.fit(module, DataLoader(data, 8, sampler=LossProportional(data)), **resumed)
    return (folder / "report" / "rows.csv").read_text(), module.state_dict()


@pytest.mark.parametrize("score", [Loss(), GradNorm(), NuclearNorm()], ids=lambda score: type(score).__name__)
def test_its_table_is_the_same(score: Any, tmp_path: Path) -> None:
    """Scores that read the output head have losses only in the first pass of a fit, which is another batch then."""
    whole = run(tmp_path / "whole", score)
    again = run(tmp_path / "again", score, tmp_path / "whole" / "step=4.ckpt")
    assert same(whole[1], again[1])
    assert whole[0] == again[0]
