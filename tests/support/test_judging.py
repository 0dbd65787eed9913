"""A judge that could not say no would be none: methods that do nothing are found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_select import BatchSelection, LossReweighting
from lightning_select.callbacks.wrap import Wrap
from lightning_select.schedule import Schedule
from lightning_select.scores.loss import Loss
from lightning_select.selectors.importance import Importance
from lightning_select.selectors.top_k import TopK
from tests.support.columns import BY_NAME, Column
from tests.support.features import FEATURES
from tests.support.judging import faults
from tests.support.running import Seen, run

ONE = next(feature for feature in FEATURES if feature.name == "one device")
NEVER = Schedule(start=10_000)


@pytest.fixture
def plain(tmp_path: Path) -> Seen:
    return run(ONE, None, tmp_path / "plain")


@pytest.mark.parametrize(
    ("kind", "make", "told"),
    [
        ("selection", lambda: BatchSelection(Loss(), TopK(), keep=4, schedule=NEVER), "rows reached the step"),
        ("weighted selection", lambda: BatchSelection(Loss(), TopK(), keep=4), "no weights were applied"),
        ("weighted selection", lambda: BatchSelection(Loss(), Importance(), keep=4), "no weights were applied"),
        ("reweighting", lambda: LossReweighting(torch.ones_like), "weights did not reach the gradients"),
        ("report", lambda: LossReweighting(lambda losses: losses), "training differs from that without us"),
        ("report", lambda: LossReweighting(torch.ones_like), "no report was written"),
    ],
)
def test_a_method_that_does_nothing_is_found_out(kind: str, make: Any, told: str, plain: Seen, tmp_path: Path) -> None:
    column = Column("mine", kind, lambda folder: [make()])
    assert told in " ".join(faults(run(ONE, column, tmp_path), plain))


def test_a_sampler_that_nobody_feeds_is_found_out(plain: Seen, tmp_path: Path) -> None:
    column = BY_NAME["LossProportional"]
    deaf = Column("deaf", "sampler", sampler=lambda rows: _deaf(column.sampler(rows)))  # type: ignore[misc]
    unseen = "rows were trained on that its history has not seen"
    assert faults(run(ONE, deaf, tmp_path), plain) == ["it learnt nothing", unseen]
    usual = Column("usual", "sampler")
    seen = run(ONE, usual, tmp_path)
    seen.cell.column, seen.cell.sampler = column, column.sampler(32)  # type: ignore[misc]
    assert faults(seen, plain) == [
        "the rows come as without us",
        "it was fed 0 of 8 batches",
        "it learnt nothing",
        unseen,
    ]


def test_what_is_left_behind_is_found(plain: Seen, tmp_path: Path) -> None:
    seen = run(ONE, BY_NAME["LossReweighting"], tmp_path)
    assert faults(seen, plain) == []
    seen.left["module"].add("more")
    seen.ours.append("Net.training_step")
    seen.weights["head.bias"][0] = torch.nan
    assert faults(seen, plain) == [
        "head.bias is not finite",
        "left behind: Net.training_step",
        "module has more attributes: ['more']",
    ]


def test_a_wrap_that_stays_is_seen(tmp_path: Path) -> None:
    """By looking at the objects, not by what a method says of itself."""

    def left(cell: Any) -> Any:
        trainer = cell.trainer()
        trainer.fit(cell.module, **cell.data())
        Wrap(lambda original, *args: original(*args), cell.module, "training_step").put()
        return trainer

    feature = type(ONE)(**{**vars(ONE), "run": left})
    assert run(feature, BY_NAME["LossReweighting"], tmp_path).ours == ["Net.training_step"]


def _deaf(sampler: Any) -> Any:
    sampler.learn = lambda ids, signals: None
    return sampler
