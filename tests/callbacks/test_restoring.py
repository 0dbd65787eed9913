"""What callbacks take over from a checkpoint, and what not."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from lightning_select import BatchSelection
from lightning_select.callbacks.restoring import saved_selection
from lightning_select.errors import ConfigurationError
from lightning_select.scores.loss import Loss
from lightning_select.types import Selection
from tests.fitting import fit
from tests.modules import Classifier


def test_a_memory_of_tensors_is_taken_over() -> None:
    memories, reference = saved_selection("Me", {"selector": [{"a": torch.ones(3)}, {}], "reference": {}})
    assert memories[0]["a"].tolist() == [1.0, 1.0, 1.0]
    assert memories[1] == reference == {}


@pytest.mark.parametrize(
    "value",
    [
        "text",
        3.0,
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.zeros(1).expand(2**40),
    ],
    ids=["text", "number", "sparse", "meta", "larger than its file"],
)
def test_a_memory_of_anything_else_is_not(value: Any) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"Me: selector.a of the checkpoint must be a dense tensor, no larger than its file, got",
    ):
        saved_selection("Me", {"selector": [{"a": value}], "reference": {}})


class Repeating:
    """Keeps a memory that takes less room than it says."""

    needs = frozenset()
    with_replacement = False

    def __call__(self, scores: Any, count: int, context: Any) -> Selection:
        return Selection(torch.arange(count), None, {"mean": scores.mean().expand(5)})


def test_a_memory_that_repeats_itself_is_saved_whole() -> None:
    def callback() -> BatchSelection:
        return BatchSelection(Loss(), Repeating(), keep=0.5)

    first = callback()
    fit(Classifier, first)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = callback()
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(second._state["mean"], first._state["mean"])
