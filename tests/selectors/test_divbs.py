from __future__ import annotations

import collections
import dataclasses
import itertools
import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import SelectionContext, Selector
from lightning_select.scores.el2n import prediction_errors
from lightning_select.selectors import divbs as module
from lightning_select.selectors.divbs import DivBS, divbs, last_layer_gram
from lightning_select.signals.base import Signals
from tests.scores.cases import ALONE, CASES, rows_of, signals_of
from tests.selectors.cases import agrees, context_of, host_reads, is_well_formed


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def gradients_of(signals: Signals) -> list[list[float]]:
    """The gradient in the weights of the last layer, one entry per class and feature, summed over valid tokens."""
    rows = []
    for tokens in rows_of(signals):
        size = signals.logits.shape[-1] * signals.hidden.shape[-1]
        total = [0.0] * size
        for token in tokens:
            errors = [p - y for p, y in zip(token.probabilities, token.target, strict=True)]
            total = [a + b for a, b in zip(total, [e * x for e in errors for x in token.hidden], strict=True)]
        rows.append(total)
    return rows


def correlations(gradients: list[list[float]], chosen: list[int]) -> list[float]:
    """|<g, r>| with r the sum of all gradients after Gram-Schmidt on the chosen ones."""
    rest = [sum(column) for column in zip(*gradients, strict=True)]
    directions: list[list[float]] = []
    for row in chosen:
        direction = gradients[row]
        for other in directions:
            direction = [d - dot(direction, other) * o for d, o in zip(direction, other, strict=True)]
        length = math.sqrt(dot(direction, direction))
        direction = [d / length for d in direction]
        directions.append(direction)
        rest = [r - dot(rest, direction) * d for r, d in zip(rest, direction, strict=True)]
    return [abs(dot(gradient, rest)) for gradient in gradients]


def greedy(gradients: list[list[float]], count: int) -> list[int]:
    """The paper's choice, for gradients of which no ``count`` depend on each other."""
    chosen: list[int] = []
    for _ in range(count):
        found = correlations(gradients, chosen)
        left = [row for row in range(len(gradients)) if row not in chosen]
        chosen.append(max(left, key=lambda row: found[row]))
    return chosen


def plain(logits: Tensor, targets: Tensor, hidden: Tensor, count: int) -> list[int]:
    """The same with whole gradients in float64, for more rows."""
    errors = torch.softmax(logits.double(), -1) - torch.nn.functional.one_hot(targets, logits.shape[-1])
    gradients = torch.einsum("bc,bf->bcf", errors, hidden.double()).flatten(1)
    rest, chosen, directions = gradients.sum(dim=0), [], gradients[:0]
    for _ in range(count):
        found = (gradients @ rest).abs()
        found[chosen] = -1.0
        chosen.append(int(found.argmax()))
        direction = gradients[chosen[-1]]
        for _ in range(2):
            direction = direction - directions.T @ (directions @ direction)
        direction = direction / direction.norm()
        directions = torch.cat([directions, direction.unsqueeze(0)])
        rest = rest - (rest @ direction) * direction
    return chosen


def batch(rows: int, classes: int = 5, features: int = 8, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(rows, classes, generator=g),
        "targets": torch.randint(classes, (rows,), generator=g),
        "hidden": torch.randn(rows, features, generator=g),
    }


def chosen_by(count: int, seed: int = 0, draw: str = "argmax", scores: Tensor | None = None, **signals: Tensor) -> list:
    scores = torch.zeros(len(signals["logits"])) if scores is None else scores
    return DivBS(draw)(scores, count, context_of(seed, **signals)).index.tolist()


def order_of(gradients: Tensor, count: int, usable: list[bool] | None = None) -> list[int]:
    mask = torch.tensor([True] * len(gradients) if usable is None else usable)
    return divbs(gradients @ gradients.T, count, mask).tolist()


@pytest.mark.parametrize("route", ["as it comes", "pairs of rows", "pairs of tokens", "classes", "one class"])
@pytest.mark.parametrize("case", CASES)
def test_inner_products_are_those_of_the_gradients(case, route, monkeypatch):
    signals = signals_of(case)
    errors = prediction_errors(signals.logits, signals.targets, signals.valid, link=signals.link)
    hidden = signals.hidden if signals.valid is None else signals.hidden * signals.valid.unsqueeze(-1)
    if route.startswith("pairs"):
        monkeypatch.setattr(module, "_AT_ONCE", 200 if route == "pairs of rows" else 1)
        flat = [values.reshape(len(values), -1, values.shape[-1]) for values in (errors, hidden)]
        found = module._by_pairs(*flat, 2 if route == "pairs of rows" else 1)
    else:
        monkeypatch.setattr(module, "_AT_ONCE", {"classes": 33, "one class": 1}.get(route, 2**24))
        found = last_layer_gram(errors, hidden)
    gradients = gradients_of(signals)
    expected = [[dot(left, right) for right in gradients] for left in gradients]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tokens", "features"), [(2, 64), (30, 3), (1, 3)])
def test_both_ways_to_sum_over_tokens_are_taken_where_they_are_cheaper(tokens, features, monkeypatch):
    calls = []
    by_pairs = module._by_pairs
    monkeypatch.setattr(module, "_by_pairs", lambda *given: calls.append(1) or by_pairs(*given))
    errors, hidden = torch.randn(6, tokens, 64), torch.randn(6, tokens, features)
    gradients = torch.einsum("btc,btf->bcf", errors.double(), hidden.double()).flatten(1)
    torch.testing.assert_close(last_layer_gram(errors, hidden).double(), gradients @ gradients.T, rtol=1e-3, atol=1e-3)
    assert len(calls) == (tokens < 30)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_picks_are_those_of_the_paper(case, count, seed):
    signals = signals_of(case, seed)
    selection = DivBS()(torch.zeros(5), count, SelectionContext(signals, torch.Generator()))
    assert selection.index.tolist() == sorted(greedy(gradients_of(signals), count))
    assert selection.weight is None
    assert selection.state == {}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rows", "count"), [(64, 20), (300, 30), (40, 31)])
def test_many_picks_are_those_of_whole_gradients_in_float64(rows, count, seed):
    given = batch(rows, seed=seed)
    assert chosen_by(count, **given) == sorted(plain(**given, count=count))


def test_picks_come_in_the_order_of_what_they_add():
    gradients = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 2.0], [0.0, 3.0, 0.1]])
    assert order_of(gradients, 4) == [3, 2, 0, 1]


def test_correlations_may_be_negative():
    # Most rows pull to the right, one hard to the left: it says as much about the sum as it would to the right.
    gradients = torch.tensor([[1.0, 0.0], [1.1, 0.0], [1.2, 0.0], [-2.0, 0.0], [0.0, 0.5]])
    assert order_of(gradients, 2) == [3, 4]


@given(st.integers(2, 8), st.data())
def test_a_twin_comes_after_all_that_are_not_exhausted(rows, data):
    first = data.draw(st.integers(0, rows - 1))
    given_rows = batch(rows, classes=3, features=9, seed=data.draw(st.integers(0, 99)))
    twins = torch.tensor([*range(rows), first])
    order = data.draw(st.permutations(range(rows + 1)))
    signals = {name: value[twins][list(order)] for name, value in given_rows.items()}
    chosen = [order[row] for row in chosen_by(rows, **signals)]
    assert len({first, rows} & set(chosen)) == 1


def test_exhausted_rows_follow_by_their_correlation_with_the_whole_sum():
    # In two dimensions the first two picks explain all; the others follow as they agree with the sum (4.6, 2.3).
    gradients = torch.tensor([[0.5, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 0.3], [1.1, 0.0], [0.0, 0.0]])
    assert order_of(gradients, 6) == [1, 2, 4, 0, 3, 5]


@pytest.mark.parametrize("seed", range(5))
def test_rounding_does_not_pass_for_something_to_add(seed):
    gradients = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed)).double()
    found = order_of(gradients.float(), 40)
    with_sum = (gradients @ gradients.sum(dim=0)).abs()
    assert found[3:] == sorted(set(range(40)) - set(found[:3]), key=lambda row: -with_sum[row])


@pytest.mark.parametrize(
    ("gradients", "count", "expected"),
    [
        ([[1.0, 2.0]], 1, [0]),
        ([[0.0, 0.0]], 1, [0]),
        ([[0.0, 0.0]] * 3, 2, [0, 1]),
        ([[1.0, 1.0]] * 4, 3, [0, 1, 2]),
        ([[0.0, 2.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], 2, [0, 1]),
        ([[0.0, 0.0], [1.0, 0.0]], 2, [1, 0]),
    ],
)
def test_ties_and_other_corners(gradients, count, expected):
    assert order_of(torch.tensor(gradients), count) == expected


def test_equal_up_to_rounding_is_equal():
    assert module._earliest_best(torch.tensor([1.0, 5.0 - 2e-6, 5.0])).tolist() == [1]
    assert module._earliest_best(torch.tensor([1.0, 5.0 - 2e-5, 5.0])).tolist() == [2]
    assert module._earliest_best(torch.tensor([-5.0, -1.0 - 5e-7, -1.0])).tolist() == [1]
    assert module._earliest_best(torch.tensor([-math.inf, -4e30])).tolist() == [1]


@pytest.mark.parametrize("draw", ["argmax", "sample"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["logits", "hidden", "scores"])
def test_rows_that_are_not_finite_come_last_and_are_no_part_of_the_sum(name, bad, draw):
    given_rows = batch(7)
    signals = {key: value.clone() for key, value in given_rows.items()}
    scores = torch.arange(7.0)
    {**signals, "scores": scores}[name][2] = bad
    others = [0, 1, 3, 4, 5, 6]
    without = {key: value[others] for key, value in given_rows.items()}
    if draw == "argmax":
        expected = [others[row] for row in chosen_by(3, **without)]
        assert chosen_by(3, scores=scores, **signals) == expected
    assert chosen_by(6, draw=draw, scores=scores, **signals) == others
    assert chosen_by(7, draw=draw, scores=scores, **signals) == list(range(7))


def test_a_target_that_is_no_class_makes_its_row_unusable():
    signals = batch(6)
    signals["targets"][1] = 77
    assert chosen_by(5, **signals) == [0, 2, 3, 4, 5]


def test_unusable_rows_come_after_rows_with_nothing_to_add():
    gradients = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert order_of(gradients, 5, [False, True, False, True, True]) == [4, 3, 1, 0, 2]
    assert order_of(0 * gradients, 3, [False] * 5) == [0, 1, 2]


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e12, 1e30])
def test_the_size_of_features_does_not_matter(factor):
    given_rows = batch(30)
    expected = chosen_by(9, **given_rows)
    assert chosen_by(9, **{**given_rows, "hidden": given_rows["hidden"] * factor}) == expected


def test_rows_that_are_learned_all_the_same_are_told_apart():
    given_rows = batch(12)
    sure = 40 * torch.nn.functional.one_hot(given_rows["targets"], 5).float() + given_rows["logits"]
    targets = torch.nn.functional.one_hot(given_rows["targets"], 5) * (1 - 1e-9 * torch.rand(12, 1).double())
    signals = {**given_rows, "logits": sure, "targets": targets.float()}
    assert len(set(chosen_by(4, **signals))) == 4


@pytest.mark.parametrize("case", ["ignored", "tokens", "images", "soft_tokens", "label_tokens"])
def test_what_is_not_valid_does_not_matter(case):
    signals = signals_of(case)
    mask = ~signals.valid.unsqueeze(-1)
    spoilt = dataclasses.replace(
        signals, hidden=signals.hidden.masked_fill(mask, math.nan), logits=signals.logits.masked_fill(mask, math.inf)
    )
    one, other = (
        DivBS()(torch.zeros(5), 3, SelectionContext(given, torch.Generator())).index.tolist()
        for given in (signals, spoilt)
    )
    assert one == other == sorted(greedy(gradients_of(signals), 3))


@given(st.permutations(range(9)))
def test_permuting_the_rows_permutes_the_choice(order):
    given_rows = batch(9)
    moved = chosen_by(4, **{name: value[list(order)] for name, value in given_rows.items()})
    assert sorted(order[row] for row in moved) == chosen_by(4, **given_rows)


@given(st.integers(1, 6), st.sampled_from(["argmax", "sample"]), st.data())
def test_always_the_same_number_of_rows(rows, draw, data):
    count = data.draw(st.integers(1, rows))
    scores = data.draw(st.lists(st.sampled_from([0.0, 1.0, -math.inf]), min_size=rows, max_size=rows))
    # Of two dimensions, so that all is explained at once.
    signals = batch(rows, classes=2, features=data.draw(st.integers(1, 2)))
    selection = DivBS(draw)(torch.tensor(scores), count, context_of(**signals))
    assert is_well_formed(selection, scores, count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sampling_draws_in_proportion_to_what_is_left(count):
    gradients = [[2.0, 0.3, 0.0], [0.5, -1.0, 0.4], [0.2, 0.9, 1.5], [-0.4, 0.6, 0.7]]
    chances: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(4), count):
        chance = 1.0
        for place, row in enumerate(order):
            found = correlations(gradients, list(order[:place]))
            open_ = [found[other] for other in range(4) if other not in order[:place]]
            chance *= found[row] / sum(open_)
        chances[order] = chance
    gram, usable = torch.tensor(gradients) @ torch.tensor(gradients).T, torch.ones(4, dtype=torch.bool)
    noise = torch.empty(3000, count, 4).exponential_(generator=torch.Generator().manual_seed(0))
    counts = collections.Counter(tuple(divbs(gram, count, usable, one).tolist()) for one in noise)
    assert agrees(counts, chances)


def test_sampling_is_a_function_of_the_generator():
    given_rows = batch(40)
    first = chosen_by(8, seed=1, draw="sample", **given_rows)
    torch.manual_seed(99)
    assert chosen_by(8, seed=1, draw="sample", **given_rows) == first
    assert chosen_by(8, seed=2, draw="sample", **given_rows) != first
    before = torch.Generator().manual_seed(5)
    state = before.get_state()
    DivBS()(torch.zeros(40), 8, SelectionContext(Signals(**given_rows), before))
    assert torch.equal(before.get_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computed_in_float32_whatever_comes(dtype):
    given_rows = {name: value.to(dtype) if name != "targets" else value for name, value in batch(60).items()}
    given_rows["hidden"] = given_rows["hidden"] * 100  # inner products beyond the range of float16
    full = {name: value.float() if name != "targets" else value for name, value in given_rows.items()}
    expected = sorted(plain(**full, count=25))
    assert chosen_by(25, **given_rows) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert chosen_by(25, **given_rows) == expected


def test_gradients_are_not_followed():
    given_rows = batch(9)
    given_rows["logits"].requires_grad_()
    given_rows["hidden"].requires_grad_()
    before = given_rows["hidden"].detach().clone()
    selection = DivBS()(torch.zeros(9), 3, context_of(**given_rows))
    assert not selection.index.requires_grad
    assert torch.equal(given_rows["hidden"].detach(), before)


@pytest.mark.parametrize("draw", ["argmax", "sample"])
@pytest.mark.parametrize("case", [*ALONE, "tokens"])
def test_reads_nothing_back_to_the_host(case, draw):
    context = SelectionContext(signals_of(case), torch.Generator())
    assert not host_reads(DivBS(draw), torch.rand(5), 3, context)


def test_draw_is_one_of_two(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^DivBS.draw must be one of argmax, sample, got 'best'\.$"):
        DivBS(draw="best")


@pytest.mark.parametrize("name", ["logits", "targets", "hidden"])
def test_needs_the_last_layer_and_says_so(name):
    assert isinstance(DivBS(), Selector)
    assert DivBS().needs == {"logits", "targets", "hidden"}
    assert not DivBS().with_replacement
    there = {key: value for key, value in batch(3).items() if key != name}
    with pytest.raises(MissingSignalError, match=rf"^DivBS must have the signal '{name}'"):
        DivBS()(torch.zeros(3), 1, context_of(**there))
