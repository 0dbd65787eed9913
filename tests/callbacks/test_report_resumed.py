"""The table of a report that goes on from a checkpoint is that of a run that was never interrupted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, SelectionReport
from lightning_select.errors import ConfigurationError
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


def report_state(checkpoint: Any) -> dict[str, Any]:
    (state,) = (one for name, one in checkpoint["callbacks"].items() if "Report" in name)
    return state


def slow(signals: Any) -> Any:
    time.sleep(0.02)
    return signals.need("loss", "slow")


def test_its_selection_took_as_long_as_all_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the 18 steps waits, and 10 of them come after the checkpoint of a run that had gone on itself."""
    costs: list[Any] = []

    def noted(place: Path, data: Any) -> Path:
        costs.append(data.cost)
        (place / "rows.csv").touch()
        return place

    monkeypatch.setattr("lightning_select.callbacks.report_parts.write_report", noted)
    run(tmp_path / "whole", slow)
    run(tmp_path / "again", slow, tmp_path / "whole" / "step=4.ckpt")
    run(tmp_path / "third", slow, tmp_path / "again" / "step=8.ckpt")
    for cost in costs:
        assert cost.steps == 18
        assert 18 * 0.02 < cost.selection_seconds < cost.seconds
    own = [torch.load(tmp_path / "again" / f"step={step}.ckpt", weights_only=True) for step in (8, 12, 16)]
    kept = [report_state(held)["report_seconds"] for held in own]
    assert 0 < kept[0] < kept[1] < kept[2] < costs[1].report_seconds


def test_a_checkpoint_from_before_that_was_saved_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "whole", Loss())
    held = torch.load(tmp_path / "whole" / "step=4.ckpt", weights_only=True)
    for name in ("selection_seconds", "report_seconds"):
        assert type(report_state(held).pop(name)) is float
    torch.save(held, tmp_path / "old.ckpt")
    again = run(tmp_path / "again", Loss(), tmp_path / "old.ckpt")
    assert again[0] == (tmp_path / "whole" / "report" / "rows.csv").read_text()


@pytest.mark.parametrize("value", [-1.0, float("nan"), "long", None])
@pytest.mark.parametrize("name", ["seconds", "selection_seconds", "report_seconds"])
def test_times_that_are_none_are_refused(name: str, value: Any) -> None:
    state = {"noting": {}, "seconds": 1.0, "selection_seconds": 1.0, "report_seconds": 1.0, name: value}
    with pytest.raises(ConfigurationError, match=rf"^report: {name} of the checkpoint must be"):
        SelectionReport().load_state_dict(state)
