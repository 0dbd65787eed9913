from __future__ import annotations

import pytest
import torch

from lightning_select.errors import MissingSignalError
from lightning_select.protocols import Score
from lightning_select.scores.loss import Loss, loss
from lightning_select.signals.base import Signals
from tests.scores.cases import HOST_READS, operations_of


def test_the_score_is_the_loss():
    losses = torch.tensor([0.3, 2.5, 0.0, -1.0])
    assert Loss()(Signals(loss=losses)).tolist() == pytest.approx([0.3, 2.5, 0.0, -1.0])
    assert torch.equal(loss(losses), losses)


def test_permuting_the_rows_permutes_the_scores():
    losses, order = torch.rand(6), torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(Loss()(Signals(loss=losses[order])), Loss()(Signals(loss=losses))[order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_one_row_of_any_dtype(dtype):
    scores = Loss()(Signals(loss=torch.tensor([1.5], dtype=dtype)))
    assert scores.shape == (1,)
    assert scores.tolist() == [1.5]


def test_what_is_not_finite_stays_in_its_row():
    scores = Loss()(Signals(loss=torch.tensor([1.0, torch.nan, torch.inf, 2.0])))
    assert scores[[0, 3]].tolist() == [1.0, 2.0]
    assert scores.isfinite().tolist() == [True, False, False, True]


def test_needs_the_loss_and_says_so():
    assert isinstance(Loss(), Score)
    assert Loss().needs == {"loss"}
    with pytest.raises(MissingSignalError, match=r"^Loss must have the signal 'loss', got only correct"):
        Loss()(Signals(correct=torch.ones(3)))


def test_reads_nothing_back_to_the_host():
    assert not operations_of(Loss(), Signals(loss=torch.rand(4))).names & HOST_READS
