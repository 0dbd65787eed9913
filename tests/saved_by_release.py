"""Runs whose checkpoints are kept per release, in ``tests/saved``; `tests/test_upgrading.py` goes on from them.

``python -m tests.saved_by_release`` writes those of this version, once, when it is released. Those of earlier releases
stay as they are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

import lightning_select
from lightning_select import BatchSelection, Holdout, LossReweighting, SelectionReport
from lightning_select.samplers.balanced_difficulty import BalancedDifficulty
from lightning_select.samplers.info_batch import InfoBatch
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.importance import Importance
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.fitting import Rows, trainer
from tests.modules import Classifier

FOLDER = Path(__file__).with_name("saved")
ROWS, SIZE, CUT, STEPS = 24, 6, 5, 9


def memory(folder: Path) -> tuple[list[Any], Any]:
    """A selector with a memory, a weighting, a sampler, and a report."""
    chosen = BatchSelection(NuclearNorm(), Diverse(capacity=8), keep=0.5)
    return [chosen, LossReweighting(DynamicLoss()), SelectionReport(folder, margins=False)], LossProportional(ROWS)


def reference(folder: Path) -> tuple[list[Any], Any]:
    """A reference that was trained for the run, and a sampler of success."""
    return [BatchSelection(ReducibleLoss(Holdout(epochs=1)), TopK(), keep=0.5)], BalancedDifficulty(ROWS)


def weighed(folder: Path) -> tuple[list[Any], Any]:
    """A selector that weighs by what it remembers, and a sampler that skips rows."""
    return [BatchSelection(NuclearNorm(), Importance(), keep=0.5)], InfoBatch(ROWS)


SCENES = {"memory": memory, "reference": reference, "weighed": weighed}


def train(scene: str, folder: Path, *saves: Any, **kwargs: Any) -> Any:
    """The Trainer after all steps."""
    torch.manual_seed(0)
    module, rows = Classifier(), Rows(rows=ROWS)
    callbacks, sampler = SCENES[scene](folder)
    done = trainer(*callbacks, *saves, max_epochs=-1, max_steps=STEPS, enable_checkpointing=bool(saves))
    done.fit(module, DataLoader(rows, SIZE, sampler=sampler), **kwargs)
    return done


def write(version: str) -> None:
    """One file for each scene."""
    for scene in SCENES:
        name = f"{version}-{scene}"
        amid = {"every_n_train_steps": CUT, "save_top_k": 1, "enable_version_counter": False}
        with tempfile.TemporaryDirectory() as report:
            keep = ModelCheckpoint(FOLDER, name, **amid)
            train(scene, Path(report), keep)
        file = Path(keep.best_model_path)
        held = torch.load(file, weights_only=True)
        del held["callbacks"][keep.state_key]  # where this machine keeps its files
        torch.save(held, file)


if __name__ == "__main__":
    write(lightning_select.__version__)
