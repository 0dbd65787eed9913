from __future__ import annotations

import dataclasses
import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import Score
from lightning_select.scores.uncertainty import Uncertainty, uncertainty
from lightning_select.signals.base import Signals
from tests.scores.cases import CASES, HOST_READS, MASKED, operations_of, rows_of, signals_of
from tests.scores.cases import with_masked_row as masked
from tests.scores.cases import with_values as filled

KINDS = ("entropy", "margin", "least_confidence")
EVERY = pytest.mark.parametrize("case", CASES)
KIND = pytest.mark.parametrize("kind", KINDS)


def of_distribution(probabilities: list[float], kind: str) -> float:
    """Settles 2009, section 3.1, with the margin turned around."""
    first, second = sorted(probabilities, reverse=True)[:2]
    if kind == "entropy":
        return -sum(p * math.log(p) for p in probabilities if p > 0)
    return 1 - first if kind == "least_confidence" else 1 - (first - second)


def reference(signals: Signals, kind: str) -> list[float]:
    scores = []
    for tokens in rows_of(signals):
        values = []
        for token in tokens:
            if token.link == "softmax":
                values.append(of_distribution(token.probabilities, kind))
            else:
                labels = [of_distribution([p, 1 - p], kind) for p in token.probabilities]
                values.append(sum(labels) / len(labels))
        scores.append(sum(values) / len(values) if values else 0.0)
    return scores


@EVERY
@KIND
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_formula(case, kind, seed):
    signals = signals_of(case, seed)
    assert Uncertainty(kind)(signals).tolist() == pytest.approx(reference(signals, kind), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("entropy", -0.7 * math.log(0.7) - 0.2 * math.log(0.2) - 0.1 * math.log(0.1)),
        ("margin", 0.5),
        ("least_confidence", 0.3),
    ],
)
def test_worked_numbers(kind, expected):
    logits = torch.tensor([[0.2, 0.7, 0.1]]).log()
    assert uncertainty(logits, kind=kind).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [("entropy", math.log(2)), ("margin", 1.0), ("least_confidence", 0.5)])
def test_two_classes_and_one_label_are_the_same_question(kind, expected):
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -3.0]])
    both = uncertainty(logits, kind=kind)
    assert both[0].item() == pytest.approx(expected)
    assert torch.allclose(both, uncertainty(logits[:, :1] - logits[:, 1:], kind=kind, link="sigmoid"))


def test_kinds_can_disagree():
    """Half against half leaves the two most likely classes tied; a long tail leaves the distribution flat."""
    tied, flat = [0.5, 0.5, 0.0, 0.0, 0.0], [0.4, 0.15, 0.15, 0.15, 0.15]
    signals = Signals(logits=torch.tensor([tied, flat]).log())
    assert {kind: int(Uncertainty(kind)(signals).argmax()) for kind in KINDS} == {
        "entropy": 1,
        "margin": 0,
        "least_confidence": 1,
    }


ROW = st.integers(2, 6).flatmap(lambda n: st.lists(st.floats(-1e4, 1e4, width=32), min_size=n, max_size=n))


@given(ROW, st.randoms(use_true_random=False))
def test_lies_between_certain_and_uniform_and_does_not_care_which_class_is_which(row, random):
    top = {"entropy": math.log(len(row)), "margin": 1.0, "least_confidence": 1 - 1 / len(row)}
    shuffled = random.sample(row, len(row))
    for kind in KINDS:
        score = uncertainty(torch.tensor([row]), kind=kind).item()
        assert 0 <= score <= top[kind] + 1e-5
        assert uncertainty(torch.tensor([shuffled]), kind=kind).item() == pytest.approx(score, abs=1e-6)
        assert uncertainty(torch.zeros(1, len(row)), kind=kind).item() == pytest.approx(top[kind], abs=1e-6)


@KIND
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_confident_rows_are_told_apart_where_probabilities_round_to_one(kind, link):
    scores = uncertainty(torch.tensor([[30.0, -30.0], [20.0, -20.0], [40.0, -40.0]]), kind=kind, link=link)
    assert scores[2] < scores[0] < scores[1]
    if kind == "least_confidence":
        expected = math.exp(-60.0) if link == "softmax" else math.exp(-30.0)
        assert scores[0].item() == pytest.approx(expected, rel=1e-4)


@KIND
def test_one_class_is_certain_and_an_impossible_class_does_not_count(kind):
    assert uncertainty(torch.tensor([[3.0]]), kind=kind).item() == 0
    impossible = uncertainty(torch.tensor([[1.0, -math.inf, 0.0]]), kind=kind)
    assert impossible.item() == pytest.approx(uncertainty(torch.tensor([[1.0, 0.0]]), kind=kind).item())


@EVERY
@KIND
def test_permuting_the_rows_permutes_the_scores(case, kind):
    signals, order = signals_of(case), torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(Uncertainty(kind)(signals.take(order)), Uncertainty(kind)(signals)[order])


@EVERY
@KIND
def test_one_row(case, kind):
    signals, score = signals_of(case), Uncertainty(kind)
    assert score(signals.take(torch.tensor([2]))).tolist() == pytest.approx([score(signals)[2].item()])


@pytest.mark.parametrize("case", MASKED)
@KIND
def test_a_row_without_valid_tokens_scores_zero(case, kind):
    signals, score = signals_of(case), Uncertainty(kind)
    scores = score(masked(signals, row=1))
    assert scores[1] == 0
    assert torch.allclose(scores[[0, 2, 3, 4]], score(signals)[[0, 2, 3, 4]])


@EVERY
@KIND
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_row(case, kind, value):
    signals, score = signals_of(case), Uncertainty(kind)
    scores = score(filled(signals, row=0, value=value))
    assert torch.allclose(scores[1:], score(signals)[1:])
    assert scores[0].isnan()


@EVERY
@KIND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32(case, kind, dtype):
    signals = signals_of(case)
    rounded = dataclasses.replace(signals, logits=signals.logits.to(dtype))
    scores = Uncertainty(kind)(rounded)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(reference(rounded, kind), abs=1e-5)


@EVERY
@KIND
def test_extreme_logits_give_finite_scores(case, kind):
    signals = signals_of(case)
    assert Uncertainty(kind)(dataclasses.replace(signals, logits=signals.logits.sign() * 1e4)).isfinite().all()


@EVERY
@KIND
def test_leaves_its_input_as_it_was_and_reads_nothing_back_to_the_host(case, kind):
    signals = signals_of(case)
    before = signals.logits.clone()
    assert not operations_of(Uncertainty(kind), signals).names & HOST_READS
    assert torch.equal(signals.logits, before)


@EVERY
def test_needs_no_labels(case):
    signals = signals_of(case)
    without = dataclasses.replace(signals, targets=None)
    assert isinstance(Uncertainty(), Score)
    assert Uncertainty().needs == {"logits"}
    assert torch.equal(Uncertainty()(without), Uncertainty()(signals))


def test_says_what_is_missing():
    with pytest.raises(MissingSignalError, match=r"^Uncertainty must have the signal 'logits', got only loss"):
        Uncertainty()(Signals(loss=torch.ones(2)))


@pytest.mark.parametrize("kind", ["Entropy", "", None])
def test_refuses_an_unknown_kind(kind, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^Uncertainty.kind must be one of entropy, margin, least_confidence, got"):
        Uncertainty(kind=kind)
