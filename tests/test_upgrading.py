"""What checkpoints promise: those of every release that is still read go on, and need nothing of ours to be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lightning_select
from tests.fitting import SAFELY, weights_of
from tests.saved_by_release import CUT, FOLDER, SCENES, STEPS, train

SAVED = sorted(FOLDER.glob("*.ckpt"))
EVERY = pytest.mark.parametrize("saved", SAVED, ids=lambda path: path.stem)
pytestmark = pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with")


def test_there_is_one_of_this_release_for_every_scene() -> None:
    version = lightning_select.__version__.rpartition(".")[0]  # a patch release changes no state
    assert {path.stem for path in SAVED if path.stem.startswith(f"{version}.0-")} == {
        f"{version}.0-{scene}" for scene in SCENES
    }


@EVERY
def test_it_goes_on_as_if_it_had_not_stopped(saved: Path, tmp_path: Path) -> None:
    """Against a run of this version that never stopped; rounding may differ between machines, rows may not."""
    scene = saved.stem.rpartition("-")[2]
    whole = weights_of(train(scene, tmp_path / "whole"))
    resumed = train(scene, tmp_path / "resumed", ckpt_path=saved, **SAFELY)
    assert resumed.global_step == STEPS
    begun = torch.load(saved, weights_only=True)["state_dict"]
    for name, value in weights_of(resumed).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, begun[name])


@EVERY
def test_it_is_read_without_any_code_of_ours(saved: Path) -> None:
    held = torch.load(saved, weights_only=True)
    assert held["global_step"] == CUT
    assert len(held["callbacks"]) >= 2
