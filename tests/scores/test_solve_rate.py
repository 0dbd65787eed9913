from __future__ import annotations

import dataclasses
import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import Score
from lightning_select.scores.solve_rate import SolveRate, solve_rate, target_probability
from lightning_select.signals.base import Signals
from tests.scores.cases import CASES, HOST_READS, MASKED, operations_of, rows_of, signals_of
from tests.scores.cases import with_masked_row as masked
from tests.scores.cases import with_values as filled

EVERY = pytest.mark.parametrize("case", CASES)
REWARDS = st.lists(st.lists(st.sampled_from([0.0, 0.25, 1.0, math.nan]), min_size=4, max_size=4), min_size=1)
OTHERS = [0, 2, 3, 4]


def reference(signals: Signals) -> list[float]:
    """The geometric mean of the probabilities of what was asked for."""
    scores = []
    for tokens in rows_of(signals):
        logs = []
        for token in tokens:
            pairs = list(zip(token.probabilities, token.target, strict=True))
            if token.link == "softmax":
                logs.append(math.log(math.prod(p**y for p, y in pairs)))
            else:
                logs.append(math.log(math.prod(p**y * (1 - p) ** (1 - y) for p, y in pairs)) / len(pairs))
        scores.append(math.exp(sum(logs) / len(logs)) if logs else math.nan)
    return scores


@given(REWARDS)
def test_is_the_mean_reward_of_the_attempts_that_were_scored(rewards):
    scores = solve_rate(torch.tensor(rewards))
    for score, attempts in zip(scores.tolist(), rewards, strict=True):
        scored = [reward for reward in attempts if not math.isnan(reward)]
        expected = sum(scored) / len(scored) if scored else math.nan
        assert score == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([[1, 0, 0, 0], [1, 1, 1, 1]], [0.25, 1.0]),
        ([[True, False], [False, False]], [0.5, 0.0]),
        ([0.5, 0.0], [0.5, 0.0]),
        ([[[1.0, 0.0], [0.0, 0.0]]], [0.25]),
    ],
)
def test_rewards_of_any_shape_and_dtype(rewards, expected):
    rewards = torch.tensor(rewards)
    scores = SolveRate("reward")(Signals(reward=rewards.int() if rewards.dtype == torch.bool else rewards))
    assert scores.dtype == torch.float32
    assert scores.tolist() == expected


@EVERY
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_formula(case, seed):
    signals = signals_of(case, seed)
    scores = SolveRate("probability")(signals)
    assert scores.tolist() == pytest.approx(reference(signals), abs=1e-5, nan_ok=True)
    assert ((scores >= 0) & (scores <= 1) | scores.isnan()).all()


def test_worked_numbers():
    halves = torch.tensor([[[0.0, 0.0], [0.0, math.log(7.0)]]])
    assert target_probability(halves, torch.tensor([[0, 0]])).item() == pytest.approx(math.sqrt(1 / 2 * 1 / 8))
    valid = torch.tensor([[False, True]])
    assert target_probability(halves, torch.tensor([[-100, 0]]), valid).item() == pytest.approx(1 / 8)
    labels = target_probability(torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 1.0]]), link="sigmoid")
    assert labels.item() == pytest.approx(math.sqrt(1 / 4 * 1 / 2))


def test_is_exp_of_minus_the_loss():
    signals = signals_of("soft")
    losses = F.cross_entropy(signals.logits, signals.targets, reduction="none")
    assert torch.allclose(SolveRate("probability")(signals), (-losses).exp())


def test_length_alone_does_not_make_a_row_hard():
    short = signals_of("tokens").take(torch.tensor([0]))
    double = {name: getattr(short, name).repeat_interleave(2, dim=1) for name in short.measured}
    assert torch.allclose(SolveRate()(dataclasses.replace(short, **double)), SolveRate()(short))


def test_one_hot_targets_are_class_indices_even_where_a_class_is_impossible():
    logits, targets = torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([1])
    for wanted in (targets, F.one_hot(targets, 3)):
        assert target_probability(logits, wanted).item() == pytest.approx(0.5)
    assert target_probability(logits, torch.tensor([2])).item() == 0


def test_auto_prefers_rewards_to_correctness_to_the_probability():
    signals = dataclasses.replace(
        signals_of("classes"), reward=torch.full((5, 2), 0.25), correct=torch.full((5,), 0.75)
    )
    assert SolveRate()(signals).tolist() == [0.25] * 5
    without = dataclasses.replace(signals, reward=None)
    assert SolveRate()(without).tolist() == [0.75] * 5
    bare = dataclasses.replace(without, correct=None)
    assert torch.equal(SolveRate()(bare), SolveRate("probability")(bare))


@pytest.mark.parametrize("source", ["reward", "correct", "probability"])
def test_an_explicit_source_is_taken_whatever_else_is_there(source):
    signals = dataclasses.replace(signals_of("classes"), reward=torch.full((5, 2), 0.25), correct=torch.ones(5).int())
    expected = {"reward": [0.25] * 5, "correct": [1.0] * 5, "probability": reference(signals)}[source]
    scores = SolveRate(source)(signals)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


@EVERY
def test_permuting_the_rows_permutes_the_scores(case):
    signals, order = signals_of(case), torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(SolveRate()(signals.take(order)), SolveRate()(signals)[order], equal_nan=True)
    rewards = Signals(reward=torch.rand(5, 3))
    assert torch.equal(SolveRate()(rewards.take(order)), SolveRate()(rewards)[order])


@EVERY
def test_one_row(case):
    signals = signals_of(case)
    assert SolveRate()(signals.take(torch.tensor([4]))).tolist() == pytest.approx([SolveRate()(signals)[4].item()])


@pytest.mark.parametrize("case", MASKED)
def test_a_row_without_valid_tokens_has_no_rate(case):
    signals = signals_of(case)
    scores = SolveRate()(masked(signals, row=1))
    assert scores[1].isnan()
    assert torch.allclose(scores[OTHERS], SolveRate()(signals)[OTHERS], equal_nan=True)


@pytest.mark.parametrize("target", [-100, 4])
def test_a_target_that_is_no_class_is_nan_in_its_row(target):
    signals = signals_of("classes")
    targets = signals.targets.clone()
    targets[2] = target
    scores = SolveRate()(dataclasses.replace(signals, targets=targets))
    assert scores.isnan().tolist() == [False, False, True, False, False]


@EVERY
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_row(case, value):
    signals = signals_of(case)
    scores = SolveRate()(filled(signals, row=0, value=value))
    assert torch.allclose(scores[1:], SolveRate()(signals)[1:], equal_nan=True)
    if math.isnan(value):
        assert scores[0].isnan()


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32(case, dtype):
    signals = signals_of(case)
    rounded = dataclasses.replace(signals, logits=signals.logits.to(dtype))
    scores = SolveRate()(rounded)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(reference(rounded), abs=1e-5, nan_ok=True)


@EVERY
def test_extreme_logits_give_rates(case):
    signals = signals_of(case)
    scores = SolveRate()(dataclasses.replace(signals, logits=signals.logits.sign() * 1e4))
    assert ((scores >= 0) & (scores <= 1))[[0, 4]].all()


@EVERY
def test_leaves_its_input_as_it_was_and_reads_nothing_back_to_the_host(case):
    signals = signals_of(case)
    before = signals.logits.clone(), signals.targets.clone()
    assert not operations_of(SolveRate(), signals).names & HOST_READS
    assert not operations_of(SolveRate(), Signals(reward=torch.rand(4, 2))).names & HOST_READS
    assert torch.equal(signals.logits, before[0])
    assert torch.equal(signals.targets, before[1])


@pytest.mark.parametrize(
    ("source", "needs"),
    [
        ("auto", {"logits", "targets"}),
        ("probability", {"logits", "targets"}),
        ("reward", {"reward"}),
        ("correct", {"correct"}),
    ],
)
def test_asks_for_its_source_and_says_when_it_is_missing(source, needs):
    assert isinstance(SolveRate(source), Score)
    assert SolveRate(source).needs == needs
    with pytest.raises(MissingSignalError, match=f"^SolveRate must have the signal '{min(needs)}', got only loss"):
        SolveRate(source)(Signals(loss=torch.ones(2)))


@pytest.mark.parametrize("source", ["rewards", "", None, []])
def test_refuses_an_unknown_source(source, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(
        ArgumentError, match=r"^SolveRate.source must be one of auto, reward, correct, probability, got"
    ):
        SolveRate(source=source)
