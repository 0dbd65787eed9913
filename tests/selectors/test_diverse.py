from __future__ import annotations

import io
import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import SelectionContext, Selector
from lightning_select.schedule import Anneal, resolve
from lightning_select.selectors.diverse import Diverse, _projection, diverse, sketch
from tests.selectors.cases import context_of, host_reads, is_well_formed

SMALL = {"vocabulary_dims": 4, "token_dims": 2, "max_tokens": 8}


def reference(
    utility: list[float], sketches: list[list[float]], memory: list[list[float]], alpha: float
) -> list[float]:
    """Utility plus alpha times the mean distance to what is in memory."""
    totals = []
    for u, z in zip(utility, sketches, strict=True):
        distances = [math.sqrt(sum((a - b) ** 2 for a, b in zip(z, old, strict=True))) for old in memory]
        totals.append(u + alpha * (sum(distances) / len(distances) if distances else 0.0))
    return totals


def run(selector: Diverse, batches: list[Tensor], count: int, state: dict | None = None) -> tuple[list, dict]:
    """Choices in batch after batch of logits, all of utility zero, and the last state."""
    choices, state = [], state or {}
    for logits in batches:
        selection = selector(torch.zeros(len(logits)), count, context_of(state=state, logits=logits))
        choices.append(selection.index.tolist())
        state = selection.state
    return choices, state


def ratios(left: Tensor, right: Tensor, **options: int) -> Tensor:
    """Distances between sketches over those between logits."""
    sketched = (sketch(left, **options) - sketch(right, **options)).norm(dim=1)
    return sketched / (left - right).flatten(1).norm(dim=1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tokens", "classes"), [(64, 512), (64, 501), (512, 130), (100, 1000)])
def test_sketches_keep_distances(tokens, classes, seed):
    found = ratios(torch.randn(40, tokens, classes), torch.randn(40, tokens, classes), seed=seed)
    assert found.mean().item() == pytest.approx(1.0, abs=0.05)
    assert found.std().item() < 0.1


@pytest.mark.parametrize("dims", [(2, 2), (6, 4), (128, 8)])
def test_squared_distances_are_kept_on_average_over_seeds(dims):
    # A difference of one block of equal values, as one-sided as logits get.
    left, right = torch.zeros(2, 1, 40, 300)
    left[:, 3:30, 20:200] = 1.0
    options = {"vocabulary_dims": dims[0], "token_dims": dims[1], "max_tokens": 64}
    squares = torch.stack([ratios(left, right, seed=seed, **options).square() for seed in range(400)])
    assert abs(squares.mean() - 1) < 4 * squares.std() / 20


@pytest.mark.parametrize("size", [17, 18, 301, 50_021])
def test_the_projection_is_orthonormal_up_to_its_scale(size):
    projection = _projection(size, 16, torch.Generator().manual_seed(0)).double()
    assert torch.allclose(projection @ projection.T * 16 / size, torch.eye(16).double(), atol=1e-5)
    assert projection.norm(dim=0).tolist() == pytest.approx([1.0] * size)


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_difference_in_one_number_keeps_its_length(tokens):
    left = torch.randn(3, tokens, 700)
    right = left.clone()
    right[:, tokens - 1, 77] += 5.0
    assert ratios(left, right).tolist() == pytest.approx([1.0] * 3, rel=1e-4)


@pytest.mark.parametrize("shape", [(3, 10), (3, 128), (3, 6, 128)])
def test_short_sides_are_left_as_they_are(shape):
    logits = torch.randn(shape)
    assert torch.equal(sketch(logits, max_tokens=6), logits.flatten(1))
    assert sketch(logits, max_tokens=8).shape[1] == (8 if len(shape) > 2 else 1) * shape[-1]


@given(st.integers(1, 8), st.integers(0, 3))
def test_padding_on_the_right_does_not_matter(tokens, more):
    logits = torch.randn(3, tokens, 9)
    valid = torch.rand(3, tokens) < 0.7
    padded = torch.cat([logits, torch.full((3, more, 9), torch.nan)], dim=1)
    mask = torch.cat([valid, torch.zeros(3, more, dtype=torch.bool)], dim=1)
    options = {**SMALL, "max_tokens": 11}
    zeroed = sketch(torch.where(valid.unsqueeze(-1), logits, 0.0), **options)
    assert torch.allclose(sketch(logits, valid, **options), zeroed, atol=1e-5)
    assert torch.allclose(sketch(padded, mask, **options), zeroed, atol=1e-5)


def test_rows_without_tokens_are_one_token_and_images_are_flattened():
    logits = torch.randn(4, 2, 3, 300)
    assert torch.equal(sketch(logits), sketch(logits.flatten(1, 2)))
    assert sketch(logits[:, 0, 0]).shape == (4, 128)
    valid = torch.tensor([True, False, True, True])
    assert sketch(logits[:, 0, 0], valid)[1].tolist() == [0.0] * 128


def test_large_batches_are_sketched_in_parts(monkeypatch):
    logits = torch.randn(7, 4, 300)
    whole = sketch(logits)
    monkeypatch.setattr("lightning_select.selectors.diverse._AT_ONCE", 2500)
    assert torch.allclose(sketch(logits), whole, atol=1e-5)


def test_the_projection_is_a_function_of_the_seed():
    logits = torch.randn(2, 3, 300)
    first = sketch(logits, seed=1)
    torch.manual_seed(99)
    assert torch.equal(sketch(logits, seed=1), first)
    assert not torch.allclose(sketch(logits, seed=2), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sketches_are_made_in_float32(dtype):
    logits = torch.randn(2, 3, 300).to(dtype)
    expected = sketch(logits.float())
    assert torch.equal(sketch(logits), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sketch(logits), expected)


@given(st.integers(0, 5), st.floats(0, 10))
def test_the_total_is_utility_plus_alpha_times_the_mean_distance(filled, alpha):
    utility, sketches, memory = torch.randn(4), torch.randn(4, 3), torch.randn(5, 3)
    total = diverse(utility, sketches, memory, torch.tensor(filled), alpha)
    expected = reference(utility.tolist(), sketches.tolist(), memory[:filled].tolist(), alpha)
    assert total.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_copy_has_no_distance_at_all():
    sketches = 1000 + torch.randn(30, 64)
    assert diverse(torch.zeros(30), sketches, sketches[:1], torch.tensor(1), 1.0)[0].item() == 0.0


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
    assert all(torch.equal(last[key], resumed[key]) for key in ("memory", "filled", "write"))
    assert {key: value.dtype for key, value in last.items()} == {
        "memory": torch.float32,
        "filled": torch.int64,
        "write": torch.int64,
    }


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
    for count, expected in ((1, [3]), (2, [0, 3]), (3, [0, 1, 3])):
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


def test_longer_rows_are_refused():
    with pytest.raises(ArgumentError, match=r"^Diverse.max_tokens must be at least the tokens of a row \(9\), got 8"):
        Diverse(max_tokens=8)(torch.zeros(2), 1, context_of(logits=torch.randn(2, 9, 4)))


def test_a_memory_of_other_sizes_is_refused():
    _, state = run(Diverse(capacity=3), [torch.randn(4, 6)], 2)
    with pytest.raises(ArgumentError, match=r"memory of \(5, 6\) \(capacity, dims\), got \(3, 6\)"):
        run(Diverse(capacity=5), [torch.randn(4, 6)], 2, state)


def test_needs_logits_and_says_so():
    assert isinstance(Diverse(), Selector)
    assert Diverse().needs == {"logits"}
    assert not Diverse().with_replacement
    with pytest.raises(MissingSignalError, match=r"^Diverse must have the signal 'logits'"):
        Diverse()(torch.zeros(2), 1, context_of())


def test_nothing_in_the_state_needs_a_gradient():
    _, state = run(Diverse(), [torch.randn(4, 6, requires_grad=True)], 2)
    assert not any(value.requires_grad for value in state.values())


def test_reads_nothing_back_to_the_host():
    logits, valid = torch.randn(8, 5, 300), torch.rand(8, 5) < 0.5
    _, state = run(Diverse(), [logits], 2)
    for before in ({}, state):
        context: SelectionContext = context_of(state=before, logits=logits, valid=valid)
        assert not host_reads(Diverse(), torch.rand(8), 3, context)
