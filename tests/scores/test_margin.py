from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import MissingSignalError
from lightning_select.protocols import Score
from lightning_select.scores.margin import Margin, margin
from lightning_select.signals.base import Signals
from tests.scores.cases import CASES, HOST_READS, MASKED, Token, operations_of, rows_of, signals_of
from tests.scores.cases import with_masked_row as masked
from tests.scores.cases import with_values as filled

EVERY = pytest.mark.parametrize("case", CASES)


def of_token(token: Token) -> float:
    """Minus equation 1 of the paper for every class, weighed by the target; a label is a choice against 0."""
    if token.link == "sigmoid":
        parts = [y * -z + (1 - y) * z for y, z in zip(token.target, token.logits, strict=True)]
        return sum(parts) / len(parts)
    total = 0.0
    for c, share in enumerate(token.target):
        others = [z for i, z in enumerate(token.logits) if i != c]
        total += share * (max(others) - token.logits[c])
    return total


def reference(signals: Signals) -> list[float]:
    rows = [[of_token(token) for token in tokens] for tokens in rows_of(signals)]
    return [sum(row) / len(row) if row else 0.0 for row in rows]


@EVERY
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_formula(case, seed):
    signals = signals_of(case, seed)
    assert Margin()(signals).tolist() == pytest.approx(reference(signals), abs=1e-5)


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        ([5.0, 2.0, 1.0], 0, -3.0),
        ([5.0, 2.0, 1.0], 1, 3.0),
        ([5.0, 2.0, 1.0], 2, 4.0),
        ([4.0, 4.0, 1.0], 0, 0.0),  # a tie of the target with another
        ([4.0, 4.0, 1.0], 2, 3.0),
        ([7.0], 0, 0.0),
    ],
)
def test_worked_numbers(logits, target, expected):
    assert margin(torch.tensor([logits]), torch.tensor([target])).tolist() == [expected]


def test_is_positive_exactly_where_the_prediction_is_wrong():
    signals = signals_of("classes")
    wrong = signals.logits.argmax(dim=-1) != signals.targets
    assert 0 < wrong.sum() < len(wrong)
    assert ((Margin()(signals) > 0) == wrong).all()


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=6), st.floats(-100, 100, width=32), st.integers(0, 1)
)
def test_ignores_a_constant_and_bounds_the_loss(values, shift, target):
    logits, targets = torch.tensor([values], dtype=torch.float64), torch.tensor([target])
    score = margin(logits, targets).item()
    assert margin(logits + shift, targets).item() == pytest.approx(score, abs=1e-3)
    loss = F.cross_entropy(logits, targets).item()
    # log(1 + e^s) <= loss <= log(1 + (C - 1) e^s), for s the score; written so that nothing overflows.
    assert math.log1p(math.exp(-abs(score))) + max(score, 0.0) <= loss + 1e-3
    assert loss <= max(score, 0.0) + math.log(len(values)) + 1e-3


@EVERY
def test_permuting_the_rows_permutes_the_scores(case):
    signals, order = signals_of(case), torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(Margin()(signals.take(order)), Margin()(signals)[order])


@pytest.mark.parametrize("case", MASKED)
def test_a_row_without_valid_tokens_scores_zero(case):
    signals = signals_of(case)
    scores = Margin()(masked(signals, row=1))
    assert scores[1] == 0
    assert torch.allclose(scores[[0, 2, 3, 4]], Margin()(signals)[[0, 2, 3, 4]])


@EVERY
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_row(case, value):
    scores = Margin()(filled(signals_of(case), row=0, value=value))
    assert scores[1:].tolist() == pytest.approx(reference(signals_of(case))[1:], abs=1e-5)
    if math.isnan(value):
        assert scores[0].isnan()


@pytest.mark.parametrize("target", [-100, -1, 4, 255])
def test_a_target_that_is_no_class_is_nan_in_its_row(target):
    signals = signals_of("classes")
    targets = signals.targets.clone()
    targets[2] = target
    scores = Margin()(dataclasses.replace(signals, targets=targets))
    assert scores.isnan().tolist() == [False, False, True, False, False]


def test_a_class_that_is_ruled_out_has_no_say():
    logits = torch.tensor([[2.0, -math.inf, 1.0]])
    assert margin(logits, torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [-1.0]
    assert margin(logits, torch.tensor([0])).tolist() == [-1.0]


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32(case, dtype):
    signals = signals_of(case)
    rounded = dataclasses.replace(signals, logits=signals.logits.to(dtype))
    scores = Margin()(rounded)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(reference(rounded), abs=1e-5)


@EVERY
def test_leaves_its_input_as_it_was_and_reads_nothing_back_to_the_host(case):
    signals = signals_of(case)
    before = signals.logits.clone(), signals.targets.clone()
    assert not operations_of(Margin(), signals).names & HOST_READS
    assert torch.equal(signals.logits, before[0])
    assert torch.equal(signals.targets, before[1])


@pytest.mark.parametrize("missing", ["logits", "targets"])
def test_says_what_is_missing(missing):
    assert isinstance(Margin(), Score)
    assert Margin().needs == {"logits", "targets"}
    signals = dataclasses.replace(signals_of("classes"), **{missing: None})
    with pytest.raises(MissingSignalError, match=f"^Margin must have the signal '{missing}'"):
        Margin()(signals)
