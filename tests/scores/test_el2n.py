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
from lightning_select.scores.el2n import EL2N, el2n, prediction_errors
from lightning_select.signals.base import Signals
from tests.scores.cases import CASES, HOST_READS, MASKED, ROWS, operations_of, rows_of, signals_of
from tests.scores.cases import with_masked_row as masked
from tests.scores.cases import with_values as filled

EVERY = pytest.mark.parametrize("case", CASES)


def reference(signals: Signals) -> list[float]:
    """``|| p(x) - y ||_2`` of the paper, averaged over the valid tokens of a row."""
    scores = []
    for tokens in rows_of(signals):
        norms = [math.sqrt(sum((p - y) ** 2 for p, y in zip(t.probabilities, t.target, strict=True))) for t in tokens]
        scores.append(sum(norms) / len(norms) if norms else 0.0)
    return scores


@EVERY
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_formula(case, seed):
    signals = signals_of(case, seed)
    assert EL2N()(signals).tolist() == pytest.approx(reference(signals), abs=1e-5)


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        ([50.0, 0.0, 0.0], 0, 0.0),
        ([50.0, 0.0, 0.0], 1, math.sqrt(2)),
        ([0.0, 0.0, 0.0], 2, math.sqrt(1 / 9 + 1 / 9 + 4 / 9)),
        ([0.0, 0.0], 0, math.sqrt(0.5)),
    ],
)
def test_worked_numbers(logits, target, expected):
    assert el2n(torch.tensor([logits]), torch.tensor([target])).item() == pytest.approx(expected, abs=1e-6)


def test_worked_number_of_a_sigmoid():
    scores = el2n(torch.tensor([[0.0, 50.0, -50.0]]), torch.tensor([[1.0, 0.0, 0.0]]), link="sigmoid")
    assert scores.item() == pytest.approx(math.sqrt(0.25 + 1.0))


def test_one_hot_targets_are_class_indices():
    signals = signals_of("classes")
    one_hot = F.one_hot(signals.targets, 4)
    assert torch.allclose(EL2N()(dataclasses.replace(signals, targets=one_hot)), EL2N()(signals))


def test_one_label_a_row_may_come_without_its_axis():
    logits, labels = torch.randn(ROWS, 1), torch.tensor([0, 1, 1, 0, 1])
    scores = el2n(logits, labels, link="sigmoid")
    assert scores.tolist() == pytest.approx((labels - logits[:, 0].sigmoid()).abs().tolist())


@EVERY
def test_the_errors_are_the_gradient_of_the_cross_entropy(case):
    signals = signals_of(case)
    logits = signals.logits.clone().requires_grad_()
    if signals.link == "sigmoid":
        losses = F.binary_cross_entropy_with_logits(logits, signals.targets, reduction="none").sum(dim=-1)
    else:
        losses = F.cross_entropy(
            logits.movedim(-1, 1),
            signals.targets.movedim(-1, 1) if signals.targets.dim() == logits.dim() else signals.targets,
            reduction="none",
        )
    if signals.valid is not None:
        losses = losses[signals.valid]
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    errors = prediction_errors(signals.logits, signals.targets, signals.valid, link=signals.link)
    assert torch.allclose(errors, gradient, atol=1e-6)


@given(
    st.integers(2, 6).flatmap(
        lambda classes: st.tuples(
            st.lists(st.floats(-1e4, 1e4, width=32), min_size=classes, max_size=classes), st.integers(0, classes - 1)
        )
    ),
    st.floats(-100, 100, width=32),
)
def test_is_between_zero_and_root_two_and_ignores_a_constant(row, shift):
    logits, target = torch.tensor([row[0]]), torch.tensor([row[1]])
    score = el2n(logits, target).item()
    assert 0 <= score <= math.sqrt(2) + 1e-6
    assert el2n(logits.double() + shift, target).item() == pytest.approx(score, abs=2e-3)


@EVERY
def test_permuting_the_rows_permutes_the_scores(case):
    signals, order = signals_of(case), torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(EL2N()(signals.take(order)), EL2N()(signals)[order])


@EVERY
def test_one_row(case):
    signals = signals_of(case)
    assert EL2N()(signals.take(torch.tensor([2]))).tolist() == pytest.approx([EL2N()(signals)[2].item()])


@pytest.mark.parametrize("case", MASKED)
def test_a_row_without_valid_tokens_scores_zero(case):
    signals = signals_of(case)
    scores = EL2N()(masked(signals, row=1))
    assert scores[1] == 0
    assert torch.allclose(scores[[0, 2, 3, 4]], EL2N()(signals)[[0, 2, 3, 4]])


@EVERY
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_row(case, value):
    signals = signals_of(case)
    scores = EL2N()(filled(signals, row=0, value=value))
    assert torch.allclose(scores[1:], EL2N()(signals)[1:])
    if math.isnan(value):
        assert scores[0].isnan()


@pytest.mark.parametrize("target", [-100, -1, 4, 255])
def test_a_target_that_is_no_class_is_nan_in_its_row(target):
    signals = signals_of("classes")
    targets = signals.targets.clone()
    targets[2] = target
    scores = EL2N()(dataclasses.replace(signals, targets=targets))
    assert scores.isnan().tolist() == [False, False, True, False, False]


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32(case, dtype):
    signals = signals_of(case)
    rounded = dataclasses.replace(signals, logits=signals.logits.to(dtype))
    scores = EL2N()(rounded)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(reference(rounded), abs=1e-5)


@EVERY
def test_extreme_logits_give_finite_scores(case):
    signals = signals_of(case)
    assert EL2N()(dataclasses.replace(signals, logits=signals.logits.sign() * 1e4)).isfinite().all()


@EVERY
def test_leaves_its_input_as_it_was_and_reads_nothing_back_to_the_host(case):
    signals = signals_of(case)
    before = signals.logits.clone(), signals.targets.clone()
    assert not operations_of(EL2N(), signals).names & HOST_READS
    assert torch.equal(signals.logits, before[0])
    assert torch.equal(signals.targets, before[1])


@pytest.mark.parametrize("missing", ["logits", "targets"])
def test_says_what_is_missing(missing):
    assert isinstance(EL2N(), Score)
    assert EL2N().needs == {"logits", "targets"}
    signals = dataclasses.replace(signals_of("classes"), **{missing: None})
    with pytest.raises(MissingSignalError, match=f"^EL2N must have the signal '{missing}'"):
        EL2N()(signals)
