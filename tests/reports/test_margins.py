from __future__ import annotations

import math

import pytest
import torch

from lightning_select.reports.margins import margins_of
from lightning_select.signals.base import Signals


def by_hand(logits: list[float], label: int) -> tuple[float, float, float, int]:
    others = [(value, place) for place, value in enumerate(logits) if place != label]
    largest, suggestion = max(others)
    total = sum(math.exp(value) for value in logits)
    return logits[label] - largest, math.exp(logits[label]) / total, float(logits[label] > largest), suggestion


@pytest.mark.parametrize("classes", [2, 5])
def test_margins_by_hand(classes: int) -> None:
    logits = torch.randn(7, classes, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(7) % classes
    found = margins_of(Signals(logits=logits, targets=targets))
    assert found is not None
    for row in range(7):
        margin, confidence, agreed, suggestion = by_hand(logits[row].tolist(), int(targets[row]))
        assert found.margin[row] == pytest.approx(margin, rel=1e-5)
        assert found.confidence[row] == pytest.approx(confidence, rel=1e-5)
        assert found.agreed[row] == agreed
        assert found.suggestion[row] == suggestion
        assert found.label[row] == targets[row]


def test_probabilities_as_targets_have_the_class_of_the_largest() -> None:
    found = margins_of(Signals(logits=torch.tensor([[1.0, 4.0]]), targets=torch.tensor([[0.9, 0.1]])))
    assert found is not None
    assert found.margin.tolist() == [-3.0]


def test_rows_that_do_not_count_and_rows_without_numbers_say_nothing() -> None:
    logits = torch.tensor([[1.0, 2.0], [1.0, 2.0], [math.nan, 1.0]])
    signals = Signals(logits=logits, targets=torch.tensor([1, -100, 0]), valid=torch.tensor([True, False, True]))
    found = margins_of(signals)
    assert found is not None
    assert found.margin[0] == 1.0
    for column in (found.margin, found.confidence, found.agreed, found.label, found.suggestion):
        assert column.isnan().tolist() == [False, True, True]


def test_a_tie_is_no_agreement() -> None:
    found = margins_of(Signals(logits=torch.tensor([[2.0, 2.0]]), targets=torch.tensor([0])))
    assert found is not None
    assert (found.margin.item(), found.agreed.item()) == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_sigmoid_is_two_classes(shape: tuple[int, ...]) -> None:
    logits, targets = torch.tensor([2.0, -1.0, 3.0]).reshape(shape), torch.tensor([1.0, 1.0, 0.0]).reshape(shape)
    found = margins_of(Signals(logits=logits, targets=targets, link="sigmoid"))
    assert found is not None
    assert found.margin.tolist() == [2.0, -1.0, -3.0]
    assert found.confidence.tolist() == pytest.approx([1 / (1 + math.exp(-value)) for value in (2.0, -1.0, -3.0)])
    assert found.agreed.tolist() == [1.0, 0.0, 0.0]
    assert found.label.tolist() == [1.0, 1.0, 0.0]
    assert found.suggestion.tolist() == [0.0, 0.0, 1.0]


def test_a_target_between_two_classes_is_none_of_them() -> None:
    signals = Signals(logits=torch.tensor([2.0, 2.0]), targets=torch.tensor([0.4, 1.0]), link="sigmoid")
    found = margins_of(signals)
    assert found is not None
    assert found.margin.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    "signals",
    [
        Signals(),
        Signals(logits=torch.zeros(2, 3)),
        Signals(logits=torch.zeros(2, 1), targets=torch.zeros(2, dtype=torch.long)),
        Signals(logits=torch.zeros(2, 5, 3), targets=torch.zeros(2, 5, dtype=torch.long)),
        Signals(logits=torch.zeros(2, 3), targets=torch.zeros(2, 3), link="sigmoid"),
    ],
    ids=["nothing", "no targets", "one class", "tokens", "several labels"],
)
def test_other_rows_have_none(signals: Signals) -> None:
    assert margins_of(signals) is None
