"""What a processor does not have: 16-mixed with a scale of gradients, and FSDP as Lightning itself begins it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy

from tests.support.columns import COLUMNS, Column
from tests.support.features import FEATURES, STRATEGIES, Feature
from tests.support.fits import Cell
from tests.support.judging import faults
from tests.support.running import run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

GPU = {"accelerator": "gpu", "devices": 1}


def fsdp(cell: Cell) -> object:
    trainer = cell.trainer(strategy=FSDPStrategy(auto_wrap_policy={torch.nn.Linear}))
    trainer.fit(cell.module, **cell.data())
    return trainer


ON_GPU = (
    Feature("one GPU", STRATEGIES, GPU),
    Feature("16-mixed, one GPU", STRATEGIES, GPU | {"precision": "16-mixed"}),
    Feature("bf16-mixed, one GPU", STRATEGIES, GPU | {"precision": "bf16-mixed"}),
    Feature("FSDP, one GPU", STRATEGIES, GPU, run=fsdp),
)
REFUSED = {"16-mixed, one GPU", "FSDP, one GPU"}
"""By `PeerReview`, which scales no gradients and splits no models."""


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
@pytest.mark.parametrize("feature", ON_GPU, ids=lambda feature: feature.name)
def test_a_cell_on_a_gpu(feature: Feature, column: Column, tmp_path: Path) -> None:
    plain = run(feature, None, tmp_path / "plain")
    seen = run(feature, column, tmp_path)
    if column.kind == "peer review" and feature.name in REFUSED:
        assert str(seen.error).startswith("PeerReview must")
        assert seen.rows == []
        return
    assert faults(seen, plain) == []


def test_the_features_of_a_gpu_are_none_of_the_page() -> None:
    assert not {feature.name for feature in ON_GPU} & {feature.name for feature in FEATURES}
