from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import Score
from lightning_select.scores.reducible_loss import ReducibleLoss, reducible_loss
from lightning_select.signals.base import Signals
from lightning_select.signals.holdout import Holdout
from lightning_select.signals.reference import UsesReference
from tests.scores.cases import HOST_READS, operations_of

LOSSES = st.lists(st.tuples(st.floats(0, 50, width=32), st.floats(0, 50, width=32)), min_size=1, max_size=8)


def test_the_three_kinds_of_rows_of_the_paper():
    """Noisy rows are hard for both models, learned rows for neither; what is left can be learned and is not yet."""
    noisy, learned, worth_it = (4.0, 4.0), (0.1, 0.1), (4.0, 0.1)
    losses, reference = torch.tensor([noisy, learned, worth_it]).T
    scores = ReducibleLoss()(Signals(loss=losses, reference_loss=reference))
    assert scores.tolist() == pytest.approx([0.0, 0.0, 3.9])


@given(LOSSES)
def test_is_the_loss_minus_the_irreducible_loss(pairs):
    scores = reducible_loss(*torch.tensor(pairs).T)
    assert scores.tolist() == pytest.approx([ours - theirs for ours, theirs in pairs], abs=1e-5)


def test_a_reference_that_knows_everything_leaves_the_loss():
    losses = torch.rand(5)
    assert torch.equal(reducible_loss(losses, torch.zeros(5)), losses)


def test_may_be_negative():
    assert reducible_loss(torch.tensor([0.5]), torch.tensor([2.0])).tolist() == [-1.5]


def test_permuting_the_rows_permutes_the_scores():
    losses, reference, order = torch.rand(6), torch.rand(6), torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(reducible_loss(losses[order], reference[order]), reducible_loss(losses, reference)[order])


@pytest.mark.parametrize("side", ["loss", "reference_loss"])
def test_what_is_not_finite_stays_in_its_row(side):
    signals = {"loss": torch.rand(4), "reference_loss": torch.rand(4)}
    signals[side][1:3] = torch.tensor([torch.nan, torch.inf])
    assert ReducibleLoss()(Signals(**signals)).isfinite().tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("measured", "missing"),
    [("reference_loss", "ReducibleLoss must have the signal 'loss'"), ("loss", "Give the score a reference")],
)
def test_says_what_is_missing(measured, missing):
    with pytest.raises(MissingSignalError, match=missing):
        ReducibleLoss()(Signals(**{measured: torch.ones(2)}))


def test_asks_for_a_reference_and_trains_one_by_default():
    assert isinstance(ReducibleLoss(), Score)
    assert isinstance(ReducibleLoss(), UsesReference)
    assert ReducibleLoss().reference == Holdout()
    assert ReducibleLoss().needs == {"loss", "reference_loss"}


@pytest.mark.parametrize(
    ("argument", "values", "rule"),
    [
        ("epochs", (0, True, 1.5, "a", None), "must be a whole number of at least 1"),
        ("share", (0, -0.1, 1.5, True, "a", None, [0.5], math.nan), r"must be in \(0, 1\]"),
        ("batch_size", (0, True, 2.5, "small"), "must be a whole number of at least 1, or None"),
        ("seed", (True, 1.5, "x", None), "must be a whole number"),
    ],
)
def test_a_holdout_takes_numbers_of_the_right_kind_only(argument, values, rule):
    for value in values:
        with pytest.raises(ArgumentError, match=rf"^Holdout\.{argument} {rule}, got {re.escape(repr(value))}\.$"):
            Holdout(**{argument: value})


def test_reads_nothing_back_to_the_host():
    signals = Signals(loss=torch.rand(4), reference_loss=torch.rand(4))
    assert not operations_of(ReducibleLoss(), signals).names & HOST_READS
