from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_select.callbacks.reference_check import chance_level, check_reference
from lightning_select.errors import ReferenceModelError
from lightning_select.signals.base import Signals


class Known:
    """A reference of which only this is known."""

    trained_here = False

    def __init__(self, evidence: Signals | None) -> None:
        self._evidence = evidence
        self.needs_ids = evidence is None  # a table

    def evidence(self, batch: Any) -> Signals | None:
        return self._evidence


def best_constant(targets: list[int], classes: int) -> float:
    """By trying: the frequencies are the best prediction that is the same for every row."""
    share = torch.bincount(torch.tensor(targets), minlength=classes).double() / len(targets)
    prediction = share.clamp(min=1e-12).log().expand(len(targets), -1)
    return F.nll_loss(prediction, torch.tensor(targets)).item()


def test_chance_is_the_best_constant_prediction_of_many_rows() -> None:
    targets = [0] * 600 + [1] * 300 + [2] * 100
    signals = Signals(logits=torch.zeros(1000, 3), targets=torch.tensor(targets))
    assert chance_level(signals) == pytest.approx(best_constant(targets, 3) + 2 / 2000, abs=1e-6)


def test_chance_of_few_rows_is_at_most_that_of_a_uniform_prediction() -> None:
    signals = Signals(logits=torch.zeros(4, 1000), targets=torch.arange(4))
    assert chance_level(signals) == pytest.approx(math.log(1000))


def test_chance_of_tokens_leaves_out_those_that_do_not_count() -> None:
    targets = torch.tensor([[0, 1, -100], [1, -100, -100]])
    signals = Signals(logits=torch.zeros(2, 3, 2), targets=targets, valid=targets != -100)
    by_hand = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    assert chance_level(signals) == pytest.approx(min(by_hand + 1 / 6, math.log(2)))


def test_chance_of_probabilities() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).repeat(500, 1)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) + 1 / 2000
    assert chance_level(Signals(logits=torch.zeros(1000, 2), targets=targets)) == pytest.approx(expected)


def test_chance_of_labels_on_their_own() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).repeat(500, 1)
    signals = Signals(logits=torch.zeros(1000, 2), targets=targets, link="sigmoid")
    assert chance_level(signals) == pytest.approx((math.log(2) + 0.0) / 2 + 1 / 2000)


@pytest.mark.parametrize(
    ("theirs", "evidence", "good"),
    [
        (0.99, None, True),
        (1.0, None, False),
        (0.99, Signals(), False),
        (0.94, Signals(), True),
        (math.nan, Signals(), False),
        (math.nan, None, False),
    ],
)
def test_a_module_without_classes_needs_a_margin(theirs: float, evidence: Signals | None, good: bool) -> None:
    def check() -> None:
        check_reference("Score", Known(evidence), None, torch.full((8,), 1.0), torch.full((8,), theirs), whole=True)

    if good:
        check()
    else:
        with pytest.raises(ReferenceModelError, match="Score.reference must know the data better"):
            check()


def test_a_majority_that_an_untrained_model_happens_to_prefer_is_not_enough() -> None:
    targets = torch.tensor([0] * 90 + [1] * 10)
    logits = torch.tensor([0.5, 0.0]).expand(100, 2)
    losses = F.cross_entropy(logits, targets, reduction="none")
    signals = Signals(logits=logits, targets=targets)
    with pytest.raises(ReferenceModelError, match="better than their frequencies do, got a cross entropy of 0.52"):
        check_reference("Score", Known(signals), None, losses + 1, losses, whole=True)


def test_logits_that_are_not_finite_are_no_evidence() -> None:
    signals = Signals(logits=torch.full((8, 2), math.nan), targets=torch.arange(8) % 2)
    with pytest.raises(ReferenceModelError, match="got a cross entropy of nan"):
        check_reference("Score", Known(signals), None, torch.ones(8), torch.zeros(8), whole=True)


@pytest.mark.parametrize(("theirs", "good"), [(0.99, False), (0.94, True)])
def test_a_module_in_pieces_needs_a_margin_and_is_not_asked_for_its_predictions(theirs: float, good: bool) -> None:
    signals = Signals(logits=torch.full((8, 2), math.nan), targets=torch.arange(8) % 2)

    def check() -> None:
        check_reference("Score", Known(signals), None, torch.ones(8), torch.full((8,), theirs), whole=False)

    if good:
        check()
    else:
        with pytest.raises(ReferenceModelError, match="Score.reference must know the data better"):
            check()
