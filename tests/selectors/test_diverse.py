from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import SelectionContext, Selector
from lightning_select.schedule import Anneal, resolve
from lightning_select.selectors.diverse import Diverse, diverse, mean_distance
from lightning_select.signals.head.head import Head
from tests.selectors.cases import context_of, host_reads, is_well_formed

SMALL = {"vocabulary_dims": 4, "token_dims": 2, "max_tokens": 8}


def distance(left: list[float], right: list[float]) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(left, right, strict=True)))


def reference(
    utility: list[float], sketches: list[list[float]], memory: list[list[float]], alpha: float
) -> list[float]:
    """Utility plus alpha times the mean distance to what is in memory."""
    totals = []
    for u, z in zip(utility, sketches, strict=True):
        distances = [distance(z, old) for old in memory]
        totals.append(u + alpha * (sum(distances) / len(distances) if distances else 0.0))
    return totals


def greedy_reference(
    utility: list[float], sketches: list[list[float]], memory: list[list[float]], alpha: float, count: int
) -> list[int]:
    """One row at a time; its novelty is the mean distance to the memory or, if less, that to the nearest taken row."""
    taken: list[int] = []
    while len(taken) < count:
        totals = {}
        for row, (u, z) in enumerate(zip(utility, sketches, strict=True)):
            mean = [sum(distance(z, old) for old in memory) / len(memory)] if memory else []
            novelty = min(mean + [distance(z, sketches[other]) for other in taken], default=0.0)
            if row not in taken:
                totals[row] = u + alpha * novelty
        taken.append(max(totals, key=lambda row: (totals[row], -row)))
    return taken


def run(selector: Diverse, batches: list[Tensor], count: int, state: dict | None = None) -> tuple[list, dict]:
    """Choices in batch after batch of logits, all of utility zero, and the last state."""
    choices, state = [], state or {}
    for logits in batches:
        selection = selector(torch.zeros(len(logits)), count, context_of(state=state, logits=logits))
        choices.append(selection.index.tolist())
        state = selection.state
    return choices, state


@given(st.integers(0, 5), st.floats(0, 10), st.booleans())
def test_the_order_is_that_of_utility_plus_alpha_times_the_mean_distance(filled, alpha, greedy):
    utility, sketches, memory = torch.randn(6), torch.randn(6, 3), torch.randn(5, 3)
    fresh = mean_distance(sketches, memory, torch.tensor(filled))
    given_ = utility.tolist(), sketches.tolist(), memory[:filled].tolist()
    assert fresh.tolist() == pytest.approx(reference([0.0] * 6, *given_[1:], 1.0), rel=1e-5, abs=1e-6)
    order = diverse(utility, fresh, sketches, 4, alpha, greedy=greedy, empty=torch.tensor(filled == 0))
    totals = reference(*given_, alpha)
    best = sorted(range(6), key=lambda row: -totals[row])[:4]
    assert order.tolist() == (greedy_reference(*given_, alpha, 4) if greedy else best)


def test_a_copy_has_no_distance_at_all():
    for sketches in (1000 + torch.randn(30, 64), torch.randn(30, 1024)):
        found = torch.stack([mean_distance(sketches, row[None], torch.tensor(1)) for row in sketches])
        assert found.diagonal().tolist() == [0.0] * 30
        assert (found + torch.eye(30)).min() > 0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_distances_of_near_copies_are_exact_to_float32(scale):
    left, away = 100 * torch.randn(20, 256), torch.randn(20, 256) * 10 ** torch.linspace(-2, 2, 20).unsqueeze(1)
    left, right = scale * left, scale * (left + away)
    found = torch.stack([mean_distance(a[None], b[None], torch.tensor(1))[0] for a, b in zip(left, right, strict=True)])
    torch.testing.assert_close(found, (left.double() - right.double()).norm(dim=1).float(), rtol=1e-5, atol=0.0)


def test_distances_that_overflow_do_no_harm():
    sketches = torch.tensor([[3e38, 3e38], [0.0, 1.0], [-3e38, -3e38]])
    fresh = mean_distance(sketches, sketches, torch.tensor(3))
    for alpha in (0.0, 1.0, 1e30):
        for greedy in (False, True):
            order = diverse(torch.tensor([1.0, 2.0, 3.0]), fresh, sketches, 3, alpha, greedy=greedy)
            assert sorted(order.tolist()) == [0, 1, 2]
            assert alpha > 0 or order.tolist() == [2, 1, 0]


def test_the_official_scale():
    # 1.5e-3 and 2.5e-3 on distances that are sqrt(T V) / 2 too long, for 512 tokens and 152064 classes.
    longer = math.sqrt(512 * 152064) / 2
    assert 1.5e-3 * longer == pytest.approx(Diverse().alpha_norm, abs=0.05)
    assert 2.5e-3 * longer == pytest.approx(11, abs=0.05)


def test_a_copy_of_a_remembered_row_comes_last():
    first = torch.randn(4, 5, 200)
    _, state = run(Diverse(), [first], 1)
    batch = torch.cat([torch.randn(2, 5, 200), first[:1], torch.randn(3, 5, 200)])
    assert run(Diverse(), [batch], 5, state)[0] == [[0, 1, 3, 4, 5]]
    # With a large enough utility it comes first all the same.
    utility = torch.tensor([0.0, 0.0, 1e4, 0.0, 0.0, 0.0])
    assert Diverse()(utility, 1, context_of(state=state, logits=batch)).index.tolist() == [2]


def test_without_a_memory_or_without_weight_the_utility_decides():
    utility, logits = torch.tensor([0.1, 3.0, 2.0, 3.0]), torch.randn(4, 6)
    assert Diverse()(utility, 2, context_of(logits=logits)).index.tolist() == [1, 3]
    _, state = run(Diverse(), [torch.randn(4, 6)], 2)
    assert Diverse(alpha_norm=0.0)(utility, 2, context_of(state=state, logits=logits)).index.tolist() == [1, 3]


def test_choices_and_memory_follow_the_paper_step_by_step():
    selector, state, memory = Diverse(alpha_norm=0.7, capacity=3), {}, []
    for step in range(8):
        utility, logits = torch.randn(5), torch.randn(5, 4)
        selection = selector(utility, 2, context_of(step, state, logits=logits))
        total = reference(utility.tolist(), logits.tolist(), memory, 0.7)
        best = sorted(range(5), key=lambda row: -total[row])[:2]
        assert selection.index.tolist() == sorted(best)
        memory = (memory + [logits[row].tolist() for row in best])[-3:]
        state = selection.state
        kept = state["memory"][: state["filled"]].tolist()
        assert sorted(kept) == sorted(memory)


def test_first_in_first_out():
    rows = torch.arange(1.0, 9.0).reshape(8, 1).expand(8, 2)
    state, filled, write = {}, [], []
    for row in rows:
        state = Diverse(capacity=3)(torch.zeros(1), 1, context_of(state=state, logits=row.unsqueeze(0))).state
        filled.append(state["filled"].item())
        write.append(state["write"].item())
    assert filled == [1, 2, 3, 3, 3, 3, 3, 3]
    assert write == [1, 2, 0, 1, 2, 0, 1, 2]
    assert state["memory"][:, 0].tolist() == [7.0, 8.0, 6.0]


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_a_memory_smaller_than_the_choice_takes_the_best(capacity):
    logits = torch.arange(5.0).reshape(5, 1)
    utility = torch.tensor([0.3, 0.9, 0.1, 0.7, 0.5])
    selection = Diverse(capacity=capacity)(utility, 4, context_of(logits=logits))
    assert selection.index.tolist() == [0, 1, 3, 4]
    assert sorted(selection.state["memory"].flatten().tolist()) == sorted([1.0, 3.0, 4.0][:capacity])
    assert selection.state["filled"].item() == capacity


def test_a_saved_state_goes_on_with_the_same_choices():
    batches = [torch.randn(6, 3, 200) for _ in range(8)]
    selector = Diverse(capacity=5)
    whole, last = run(selector, batches, 2)
    first, state = run(selector, batches[:4], 2)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    second, resumed = run(Diverse(capacity=5), batches[4:], 2, torch.load(file, weights_only=True))
    assert first + second == whole
    assert all(torch.equal(last[key], resumed[key]) for key in last)
    assert set(resumed) == set(last)
    assert [last[key].dtype for key in ("memory", "filled", "write")] == [torch.float32, torch.int64, torch.int64]


def test_the_state_it_was_given_is_left_alone():
    _, state = run(Diverse(capacity=3), [torch.randn(4, 6)], 2)
    before = {key: value.clone() for key, value in state.items()}
    run(Diverse(capacity=3), [torch.randn(4, 6)], 2, state)
    assert all(torch.equal(before[key], state[key]) for key in before)


@given(st.permutations(range(6)))
def test_permuting_the_rows_permutes_the_choice_and_not_the_memory(order):
    batches = torch.randn(3, 6, 4)
    batches = batches.sort(dim=1).values * torch.arange(1.0, 7.0).reshape(6, 1)
    utility, order = torch.arange(6.0), torch.tensor(order)
    state, permuted = {}, {}
    for logits in batches:
        one = Diverse(capacity=4)(utility, 3, context_of(state=state, logits=logits))
        other = Diverse(capacity=4)(utility[order], 3, context_of(state=permuted, logits=logits[order]))
        assert sorted(order[other.index].tolist()) == one.index.tolist()
        state, permuted = one.state, other.state
        assert torch.equal(state["memory"], permuted["memory"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_without_a_finite_score_come_last_and_are_not_remembered(value):
    logits = torch.randn(4, 6)
    logits[2] = value
    utility = torch.tensor([0.0, -math.inf, 5.0, 1.0])
    selection = Diverse(capacity=8)(utility, 4, context_of(logits=logits))
    assert selection.index.tolist() == [0, 1, 2, 3]
    assert selection.state["filled"].item() == selection.state["write"].item() == 2
    assert selection.state["memory"][:2].tolist() == logits[[3, 0]].tolist()
    assert selection.state["memory"][2:].tolist() == [[0.0] * 6] * 6
    for count, expected in ((1, [3]), (2, [0, 3]), (3, [0, 2, 3])):
        assert Diverse()(utility, count, context_of(logits=logits)).index.tolist() == expected


@given(st.integers(1, 6), st.data())
def test_always_the_same_number_of_rows(rows, data):
    count = data.draw(st.integers(1, rows))
    scores = data.draw(st.lists(st.sampled_from([0.0, 1.0, -math.inf]), min_size=rows, max_size=rows))
    state = {}
    for _ in range(2):
        context = context_of(state=state, logits=torch.randn(rows, 3, 9))
        selection = Diverse(capacity=4, **SMALL)(torch.tensor(scores), count, context)
        assert is_well_formed(selection, scores, count)
        assert selection.weight is None
        state = selection.state


def test_equal_totals_are_in_the_order_of_the_batch():
    assert run(Diverse(), [torch.ones(5, 3), torch.ones(5, 3)], 2)[0] == [[0, 1], [0, 1]]


def test_an_anneal_counts_as_its_number_or_by_hand_as_its_begin():
    annealed = Diverse(alpha_norm=Anneal(begin=2.0, end=8.0))
    assert resolve(annealed, 5, 10) == Diverse(alpha_norm=5.0)
    _, state = run(Diverse(), [torch.randn(4, 6)], 2)
    utility, logits = torch.randn(6), torch.randn(6, 6)
    context = context_of(state=state, logits=logits)
    assert annealed(utility, 3, context).index.tolist() == Diverse(2.0)(utility, 3, context).index.tolist()


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf, "1", Anneal(begin=1.0, end=-1.0)])
def test_alpha_is_a_number_from_zero(alpha, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^Diverse.alpha_norm must be a finite number, at least 0, got "):
        Diverse(alpha_norm=alpha)


@pytest.mark.parametrize("field", ["greedy", "shared"])
def test_switches_are_true_or_false(field, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=rf"^Diverse.{field} must be true or false, got 1\.$"):
        Diverse(**{field: 1})


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("capacity", 0, "a whole number, at least 1"),
        ("vocabulary_dims", 3, "an even number, at least 2"),
        ("token_dims", 0, "an even number, at least 2"),
        ("max_tokens", 0, "a whole number, at least 1"),
        ("max_tokens", True, "a whole number, at least 1"),
        ("seed", -1, "a whole number, at least 0"),
    ],
)
def test_sizes_are_whole_numbers(field, value, rule, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=rf"^Diverse.{field} must be {rule}, got {value}\.$"):
        Diverse(**{field: value})


def test_longer_rows_are_no_error():
    _, state = run(Diverse(max_tokens=8), [torch.randn(6, 5, 200)], 1)
    logits = torch.randn(6, 30, 200)
    (first,), state = run(Diverse(max_tokens=8), [logits], 1, state)
    assert run(Diverse(max_tokens=8), [logits], 5, state)[0] == [[row for row in range(6) if row not in first]]


@pytest.mark.parametrize(
    ("changed", "classes", "message"),
    [
        ({"capacity": 5}, 6, "capacity 5, got one of capacity 3"),
        ({"seed": 7}, 6, "seed 7, got one of seed 0"),
        ({"max_tokens": 9}, 6, "max_tokens 9, got one of max_tokens 4096"),
        ({"vocabulary_dims": 4}, 6, "vocabulary_dims 4, got one of vocabulary_dims 128"),
        ({"token_dims": 4}, 6, "token_dims 4, got one of token_dims 8"),
        ({"shared": True}, 6, "shared 1, got one of shared 0"),
        ({}, 7, "classes 7, got one of classes 6"),
        ({}, 32_001, "classes 32001, got one of classes 6"),
    ],
)
def test_a_memory_made_otherwise_is_refused(changed, classes, message):
    _, state = run(Diverse(capacity=3), [torch.randn(4, 6)], 2)
    with pytest.raises(ArgumentError, match=rf"^Diverse must go on with a memory of {message} from the checkpoint\."):
        run(Diverse(**({"capacity": 3} | changed)), [torch.randn(4, classes)], 2, state)


def test_another_vocabulary_is_refused_though_sketches_are_as_long_and_so_are_rows_with_tokens():
    _, state = run(Diverse(), [torch.randn(4, 300)], 2)
    with pytest.raises(ArgumentError, match=r"of classes 301, got one of classes 300 from the checkpoint"):
        run(Diverse(), [torch.randn(4, 301)], 2, state)
    with pytest.raises(ArgumentError, match=r"of dims 1024, got one of dims 128 from the checkpoint"):
        run(Diverse(), [torch.randn(4, 5, 300)], 2, state)
    with pytest.raises(ArgumentError, match=r"of classes 300, got one of classes None from the checkpoint"):
        run(Diverse(), [torch.randn(4, 300)], 2, {key: state[key] for key in ("memory", "filled", "write")})


def test_alpha_and_greedy_may_change():
    _, state = run(Diverse(), [torch.randn(4, 300)], 2)
    run(Diverse(alpha_norm=1.0, greedy=True), [torch.randn(4, 300)], 2, state)


def test_needs_logits_and_says_so():
    assert isinstance(Diverse(), Selector)
    assert Diverse().needs == {"head"}
    assert not Diverse().with_replacement
    with pytest.raises(MissingSignalError, match=r"^Diverse must have the signal 'head'"):
        Diverse()(torch.zeros(2), 1, context_of())


def test_nothing_in_the_state_needs_a_gradient():
    _, state = run(Diverse(), [torch.randn(4, 6, requires_grad=True)], 2)
    assert not any(value.requires_grad for value in state.values())


@pytest.mark.parametrize("greedy", [False, True])
def test_reads_nothing_back_to_the_host(greedy):
    weight, valid = torch.nn.Parameter(torch.randn(300, 16)), torch.rand(8, 5) < 0.5
    signals: Any = {"head": Head.linear(torch.randn(8, 5, 16), weight), "valid": valid}
    selector = Diverse(greedy=greedy)
    state = selector(torch.zeros(8), 2, context_of(**signals)).state
    for before in ({}, state):
        context: SelectionContext = context_of(state=before, **signals)
        assert not host_reads(selector, torch.rand(8), 3, context)


def test_the_head_chooses_as_its_logits_do():
    weight, bias = torch.nn.Parameter(torch.randn(300, 16)), torch.randn(300)
    states: list[Any] = [{}, {}]
    for _ in range(4):
        hidden, valid, utility = torch.randn(8, 5, 16), torch.rand(8, 5) < 0.8, 20 * torch.randn(8)
        given_: list[Any] = [
            {"head": Head.linear(hidden, weight, bias)},
            {"logits": torch.nn.functional.linear(hidden, weight, bias)},
        ]
        found = [
            Diverse(capacity=5)(utility, 3, context_of(state=state, valid=valid, **signals))
            for state, signals in zip(states, given_, strict=True)
        ]
        assert found[0].index.tolist() == found[1].index.tolist()
        states = [selection.state for selection in found]
        torch.testing.assert_close(states[0]["memory"], states[1]["memory"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sketches_choose_as_exact_distances_do_where_margins_are_clear(greedy, dtype):
    # Rows at clearly different distances from all others: directions of their own, lengths a third apart.
    length = 1.35 ** torch.arange(8.0)
    selector, state, memory = Diverse(alpha_norm=0.5, capacity=6, greedy=greedy), {}, []
    for _ in range(5):
        order = torch.randperm(8)
        logits = (torch.randn(8, 12, 400) * length[order].reshape(8, 1, 1)).to(dtype)
        utility = torch.zeros(8)
        selection = selector(utility, 3, context_of(state=state, logits=logits))
        exact = logits.float().flatten(1).tolist()
        if greedy:
            best = greedy_reference(utility.tolist(), exact, memory, 0.5, 3)
        else:
            totals = reference(utility.tolist(), exact, memory, 0.5)
            best = sorted(range(8), key=lambda row: (-totals[row], row))[:3]
        if memory:  # without one all totals are equal, or the margins are not clear
            assert selection.index.tolist() == sorted(best)
        memory = (memory + [exact[row] for row in selection.index.tolist()])[-6:]
        state = selection.state


@pytest.mark.parametrize("remembered", [0, 1, 40])
def test_a_twin_of_a_chosen_row_is_not_chosen_while_a_distinct_row_is_left(remembered):
    selector = Diverse(capacity=32, greedy=True)
    state: Any = {}
    if remembered:
        _, state = run(selector, [torch.randn(remembered, 6, 200)], remembered)
    # Two families of copies with the best utilities, and three rows of their own of a utility a little lower.
    logits = torch.randn(6, 6, 200)[torch.tensor([0, 0, 1, 2, 0, 3, 1, 4])]
    utility = torch.tensor([9.0, 9.0, 8.9, 8.0, 9.0, 7.0, 8.9, 6.0])
    for count, expected in ((5, [0, 2, 3, 5, 7]), (6, [0, 1, 2, 3, 5, 7]), (8, list(range(8)))):
        assert selector(utility, count, context_of(state=state, logits=logits)).index.tolist() == expected
    # A copy is taken all the same where its utility is ahead by more than the distance of any other is worth.
    utility = torch.tensor([5e4, 5e4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert selector(utility, 2, context_of(state=state, logits=logits)).index.tolist() == [0, 1]


def test_without_greedy_twins_are_chosen_together():
    _, state = run(Diverse(), [torch.randn(40, 6, 200)], 40)
    logits = torch.randn(4, 6, 200)[torch.tensor([0, 1, 0, 2, 3])]
    utility = torch.tensor([1e3, 0.0, 1e3, 0.0, 0.0])
    assert Diverse()(utility, 2, context_of(state=state, logits=logits)).index.tolist() == [0, 2]


def test_greedy_leaves_rows_alone_that_are_as_far_from_each_other_as_from_the_memory():
    logits = 10 * torch.eye(40).reshape(40, 1, 40)
    _, state = run(Diverse(), [logits[:8]], 8)
    utility = torch.randn(32)
    found = [
        Diverse(greedy=greedy)(utility, 9, context_of(state=state, logits=logits[8:])).index.tolist()
        for greedy in (False, True)
    ]
    assert found[0] == found[1] == sorted(utility.argsort(descending=True)[:9].tolist())


@pytest.mark.parametrize("greedy", [False, True])
def test_rows_without_valid_tokens_come_after_those_with_and_are_not_remembered(greedy):
    selector = Diverse(capacity=8, greedy=greedy)
    _, state = run(selector, [torch.randn(3, 5, 200)], 3)
    logits, valid = torch.randn(4, 5, 200), torch.ones(4, 5, dtype=torch.bool)
    valid[1] = False
    utility = torch.tensor([-9.0, 1e6, -math.inf, 0.0])
    for count, expected in ((2, [0, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])):
        selection = selector(utility, count, context_of(state=state, logits=logits, valid=valid))
        assert selection.index.tolist() == expected
        assert selection.state["filled"].item() == selection.state["write"].item() == 5
        assert selection.state["memory"].isfinite().all()
        assert selection.metrics["novelty_kept"].isfinite()


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_without_valid_tokens_leaves_the_memory_as_it_was(greedy, shared):
    selector = Diverse(capacity=8, greedy=greedy, shared=shared)
    _, full = run(selector, [torch.randn(3, 5, 200)], 3)
    for state, fill in (({}, 0.0), (full, 3 / 8)):
        valid = torch.zeros(4, 5, dtype=torch.bool)
        selection = selector(torch.rand(4), 2, context_of(state=state, logits=torch.randn(4, 5, 200), valid=valid))
        assert selection.index.tolist() == [0, 1]
        assert selection.metrics["novelty_kept"].item() == 0.0
        assert selection.metrics["memory_fill"].item() == fill
        assert selection.state["memory"].isfinite().all()
        if state:
            assert all(torch.equal(state[key], selection.state[key]) for key in state)


def test_logs_the_fill_of_the_memory_and_how_new_the_kept_rows_are():
    selector, state, memory = Diverse(capacity=4, alpha_norm=2.0), {}, []
    for step in range(4):
        utility, logits = torch.randn(6), torch.randn(6, 4)
        selection = selector(utility, 2, context_of(step, state, logits=logits))
        fresh, kept = reference([0.0] * 6, logits.tolist(), memory, 1.0), selection.index.tolist()
        assert selection.metrics["novelty_kept"].item() == pytest.approx(
            (fresh[kept[0]] + fresh[kept[1]]) / 2, rel=1e-5
        )
        assert selection.metrics["memory_fill"].item() == min(2 * step + 2, 4) / 4
        memory = (memory + [logits[row].tolist() for row in kept])[-4:]
        state = selection.state


def test_a_memory_larger_than_the_run_is_never_full():
    batches = [torch.randn(6, 300) for _ in range(3)]
    _, state = run(Diverse(capacity=1024), batches, 2)
    assert state["filled"].item() == 6
    assert not state["memory"][6:].any()


def on_two_ranks(tmp_path: Path, task: Callable[[int], Any]) -> list[Any]:
    """What ``task`` returns on each of two ranks, each a process of its own."""

    def work(rank: int, attempt: int) -> None:
        store = f"file://{tmp_path}/store{attempt}"
        torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)
        try:
            torch.save(task(rank), tmp_path / f"{rank}.pt")
        finally:
            torch.distributed.destroy_process_group()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forked processes must not inherit a pool of threads in use
    try:
        for attempt in range(3):
            try:
                torch.multiprocessing.start_processes(work, (attempt,), nprocs=2, start_method="fork")
                break
            except torch.multiprocessing.ProcessRaisedException as error:
                # Ranks of other tests that start at the same time may take the port that gloo was about to use.
                if attempt == 2 or "connectFullMesh" not in str(error):
                    raise
    finally:
        torch.set_num_threads(threads)
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]


def batches_of(rank: int, sizes: list[int]) -> list[Tensor]:
    random = torch.Generator().manual_seed(rank)
    return [torch.randn(size, 4, generator=random) for size in sizes]


two_ranks = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")


@two_ranks
@pytest.mark.parametrize("capacity", [7, 3, 2])
def test_a_shared_memory_is_the_same_on_all_ranks(capacity, tmp_path):
    # The ranks' batches are of other sizes, and once only one row of the first rank has finite logits.
    sizes, selector = [[5, 5, 5, 4, 5], [6, 6, 5, 2, 5]], Diverse(capacity=capacity, alpha_norm=0.7, shared=True)

    def task(rank: int) -> Any:
        batches = batches_of(rank, sizes[rank])
        batches[2][:4] = batches[2][:4] if rank else torch.nan
        return run(selector, batches, 2)

    (first, one), (second, two) = on_two_ranks(tmp_path, task)
    assert all(torch.equal(one[key], two[key]) for key in one)
    memory: list[list[float]] = []
    batches = [batches_of(rank, sizes[rank]) for rank in range(2)]
    for step in range(5):
        best = []
        for rank, choices in enumerate((first, second)):
            rows = batches[rank][step].tolist()
            usable = [4] if (rank, step) == (0, 2) else range(len(rows))
            totals = reference([0.0] * len(rows), rows, memory, 0.7)
            best.append([rows[row] for row in sorted(usable, key=lambda row, of=totals: -of[row])[:2]])
            assert {tuple(rows[row]) for row in choices[step]} >= {tuple(row) for row in best[-1]}
        in_turn = [ranked[place] for place in range(2) for ranked in best if place < len(ranked)]
        memory = (memory + in_turn[:capacity])[-capacity:]
    assert sorted(map(tuple, memory)) == sorted(map(tuple, one["memory"].tolist()))


@two_ranks
def test_a_memory_of_its_own_knows_nothing_of_other_ranks(tmp_path):
    found = on_two_ranks(tmp_path, lambda rank: run(Diverse(capacity=7), batches_of(rank, [5, 5, 5]), 2))
    for rank in range(2):
        choices, state = run(Diverse(capacity=7), batches_of(rank, [5, 5, 5]), 2)
        assert found[rank][0] == choices
        assert torch.equal(found[rank][1]["memory"], state["memory"])


@two_ranks
def test_a_shared_memory_goes_on_exactly_on_two_ranks_and_on_one(tmp_path):
    selector = Diverse(capacity=7, shared=True)
    for part in ("whole", "first", "second"):
        (tmp_path / part).mkdir()
    whole = on_two_ranks(tmp_path / "whole", lambda rank: run(selector, batches_of(rank, [5] * 6), 2))
    first = on_two_ranks(tmp_path / "first", lambda rank: run(selector, batches_of(rank, [5] * 6)[:3], 2))
    second = on_two_ranks(
        tmp_path / "second", lambda rank: run(selector, batches_of(rank, [5] * 6)[3:], 2, first[rank][1])
    )
    for rank in range(2):
        assert first[rank][0] + second[rank][0] == whole[rank][0]
        assert all(torch.equal(whole[rank][1][key], second[rank][1][key]) for key in whole[rank][1])
    assert run(selector, batches_of(0, [5] * 6)[3:4], 2, first[1][1])[0] == second[0][0][:1]


@two_ranks
def test_how_many_rows_a_rank_may_have_is_settled_anew_on_another_number_of_ranks(tmp_path):
    def task(rank: int) -> Any:
        selector, batches = Diverse(capacity=20, shared=True), batches_of(rank, [5, 5])
        _, state = run(selector, batches[:1], 4)
        one = run(selector, batches[1:], 4, dict(state))[1]["filled"]
        # As three ranks would have left it that had one row each.
        return one, run(selector, batches[1:], 4, dict(state) | {"slots": torch.empty(0, 1, 3)})[1]["filled"]

    assert [[int(filled) for filled in found] for found in on_two_ranks(tmp_path, task)] == [[16, 16], [16, 16]]


def test_on_one_rank_sharing_changes_nothing():
    batches = batches_of(0, [5] * 6)
    (plain, one), (shared, two) = (run(Diverse(capacity=5, shared=shared), batches, 2) for shared in (False, True))
    assert plain == shared
    assert all(torch.equal(one[key], two[key]) for key in ("memory", "filled", "write"))
