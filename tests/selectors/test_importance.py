from __future__ import annotations

import math
from collections import Counter

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.protocols import Selector
from lightning_select.selectors.importance import Importance, importance
from tests.selectors.cases import SCORES, agrees, chances_of_sets, choose, context_of, host_reads, is_well_formed

ALWAYS = 0.0
NEVER = 1e9


def reference(scores: list[float], floor: float) -> list[float]:
    """Chances by hand: positive parts, plus a share of their mean, divided by the sum."""
    finite = [row for row, score in enumerate(scores) if math.isfinite(score)]
    useful = {row: max(scores[row], 0.0) for row in finite}
    if not finite:
        return [1 / len(scores)] * len(scores)
    mean = sum(useful.values()) / len(finite)
    parts = [useful[row] + floor * mean if row in useful else 0.0 for row in range(len(scores))]
    if sum(parts) == 0:
        parts = [float(row in useful) for row in range(len(scores))]
    return [part / sum(parts) for part in parts]


def tau_of(scores: list[float], floor: float = 0.0) -> float:
    """Of the paper: ``1 / sqrt(1 - sum (p - u)^2 / sum p^2)`` with u uniform."""
    chances = reference(scores, floor)
    uniform = 1 / len(scores)
    return 1 / math.sqrt(1 - sum((p - uniform) ** 2 for p in chances) / sum(p * p for p in chances))


@given(SCORES, st.sampled_from([0.0, 0.01, 1.0]))
def test_chances_are_shares_of_the_score(scores, floor):
    assert importance(torch.tensor(scores), floor).tolist() == pytest.approx(reference(scores, floor), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 6e37])
def test_the_scale_of_the_scores_does_not_matter(scale):
    assert importance(scale * torch.tensor([3.0, 1.0, 5.0]), 0.5).tolist() == pytest.approx(
        reference([3.0, 1.0, 5.0], 0.5)
    )


def test_the_weighted_mean_over_the_drawn_rows_is_the_mean_over_all():
    # One draw of 1e5 from 1e5 rows of six kinds: the law of the mean is that of 1e5 independent draws.
    kinds = torch.tensor([0.1, 4.0, 1.0, 0.0, -2.0, 0.5])
    gradients = torch.tensor([0.3, -5.0, 2.0, 0.02, 1.0, -0.6])
    scores, gradient = (values.repeat(20_000)[:100_000].double() for values in (kinds, gradients))
    selection = Importance(threshold=ALWAYS, floor=0.05)(scores.float(), 100_000, context_of())
    estimates = selection.weight.double() * gradient[selection.index]
    error = estimates.std() / math.sqrt(100_000)
    assert abs(estimates.mean() - gradient.mean()) < 4 * error
    assert error < 0.02 * gradient.abs().mean()
    unweighted = gradient[selection.index]
    assert abs(unweighted.mean() - gradient.mean()) > 20 * unweighted.std() / math.sqrt(100_000)


@pytest.mark.parametrize("floor", [0.01, 0.5])
def test_weight_times_chance_is_constant(floor):
    scores = [0.2, 3.0, 1.0, 0.0, -math.inf, 0.7]
    selection = Importance(threshold=ALWAYS, floor=floor)(torch.tensor(scores), 6, context_of())
    chances = reference(scores, floor)
    for row, weight in zip(selection.index.tolist(), selection.weight.tolist(), strict=True):
        assert weight * chances[row] == pytest.approx(1 / 5)
        assert weight <= 1.000001 + 1 / floor


def test_draws_in_proportion_with_replacement():
    scores = [0.2, 3.0, 1.0, 0.0, -math.inf, 0.7]
    context, row = context_of(), torch.tensor(scores)
    counts = Counter()
    for _ in range(3000):
        counts.update(Importance(threshold=ALWAYS, floor=0.1)(row, 4, context).index.tolist())
    assert agrees(counts, dict(enumerate(reference(scores, 0.1))))


def test_uniform_without_replacement_and_with_weight_one_below_the_threshold():
    context, row = context_of(), torch.tensor([0.0, 9.0, 1.0, -2.0, -math.inf])
    sets = Counter()
    for _ in range(4000):
        selection = Importance(threshold=NEVER)(row, 2, context)
        assert selection.weight.tolist() == [1.0, 1.0]
        sets[tuple(selection.index.tolist())] += 1
    assert agrees(sets, chances_of_sets([1.0, 1.0, 1.0, 1.0, 0.0], 2))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([1.0] * 50, 1.0), ([row / 1000 for row in range(1000)], 1.155), ([0.0] * 15 + [1.0], 4.0)],
)
def test_tau_of_the_paper(scores, expected):
    assert tau_of(scores) == pytest.approx(expected, abs=1e-3)
    state = Importance(smoothing=0.0, floor=0.0)(torch.tensor(scores), 1, context_of()).state
    assert state["tau"].item() == pytest.approx(tau_of(scores), rel=1e-5)


def test_the_switch_follows_the_running_mean():
    # 6 candidates for 2: the threshold is 2. One heavy row has tau 2.45, equal rows have tau 1.
    heavy, equal = [0.0] * 5 + [1.0], [1.0] * 6
    selector, state, mean, weighted = Importance(floor=0.001), {}, 0.0, []
    for step, scores in enumerate([heavy] * 25 + [equal] * 5):
        selection = selector(torch.tensor(scores), 2, context_of(step, state))
        state = selection.state
        mean = 0.9 * mean + 0.1 * tau_of(scores, 0.001)
        assert state["tau"].item() == pytest.approx(mean, rel=1e-5)
        if selection.weight.tolist() != pytest.approx([1.0, 1.0]):
            weighted.append(step)
            assert 5 in selection.index.tolist()
        assert (step in weighted) == (mean > 2 and scores == heavy)
    assert weighted == list(range(16, 25))
    assert mean < 2


@pytest.mark.parametrize(("threshold", "on"), [(2.39, True), (2.41, False), (None, True)])
def test_the_threshold_can_be_given(threshold, on):
    # 16 candidates for 4: the default is 28 / 12. The running mean after one step is .6 times 4.
    scores = torch.tensor([0.0] * 15 + [1.0])
    selection = Importance(threshold, smoothing=0.4, floor=1e-6)(scores, 4, context_of())
    assert (selection.index.tolist() == [15] * 4) == on
    assert (selection.weight.tolist() == pytest.approx([1 / 16] * 4, rel=1e-4)) == on


@given(SCORES, st.sampled_from([ALWAYS, NEVER]), st.data())
def test_always_the_same_number_of_rows_with_finite_weights(scores, threshold, data):
    count = data.draw(st.integers(1, len(scores)))
    selector = Importance(threshold, floor=data.draw(st.sampled_from([0.0, 0.01])))
    selection = selector(torch.tensor(scores), count, context_of(data.draw(st.integers(0, 5))))
    assert is_well_formed(selection, scores, count, repeats=threshold == ALWAYS)
    assert selection.weight.isfinite().all()
    assert (selection.weight > 0).all()
    assert selection.state["tau"].isfinite()


def test_equal_scores_have_equal_chances_and_weights_of_one():
    selection = Importance(threshold=ALWAYS)(torch.full((8,), 3.0), 8, context_of())
    assert selection.weight.tolist() == pytest.approx([1.0] * 8)
    assert Importance(threshold=ALWAYS)(torch.zeros(3), 1, context_of()).weight.tolist() == pytest.approx([1.0])


def test_the_generator_alone_decides():
    scores = torch.rand(40)
    for threshold in (ALWAYS, NEVER):
        first = choose(Importance(threshold), scores, 20, seed=1)
        torch.manual_seed(5)
        assert choose(Importance(threshold), scores, 20, seed=1) == first
        assert choose(Importance(threshold), scores, 20, seed=2) != first


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("threshold", [-1.0, math.nan, math.inf, "2"]),
        ("smoothing", [-0.1, 1.0, math.nan, True]),
        ("floor", [-1e-9, math.inf, math.nan, None]),
    ],
)
def test_fields_have_ranges(field, values, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    for value in values:
        with pytest.raises(ArgumentError, match=rf"^Importance.{field} must be .*, got {value!r}\.$"):
            Importance(**{field: value})


@pytest.mark.parametrize("threshold", [None, ALWAYS, NEVER])
def test_reads_nothing_back_to_the_host(threshold):
    assert not host_reads(Importance(threshold), torch.rand(8), 3, context_of())


def test_is_a_selector():
    assert isinstance(Importance(), Selector)
    assert Importance().needs == frozenset()
    assert Importance().with_replacement
