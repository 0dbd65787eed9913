from __future__ import annotations

import dataclasses
import itertools
import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import Score
from lightning_select.scores.nuclear_norm import NuclearNorm, nuclear_norm
from lightning_select.signals.base import Signals
from lightning_select.signals.head import gram as head_gram
from tests.scores.cases import CASES, HOST_READS, MASKED, operations_of, rows_of, signals_of
from tests.scores.cases import with_masked_row as masked
from tests.scores.cases import with_values as filled

EVERY = pytest.mark.parametrize("case", CASES)
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(0, 10**6))


def singular_values(matrix: list[list[float]]) -> list[float]:
    """One-sided Jacobi: turn pairs of columns until all are orthogonal; their lengths are the singular values."""
    columns = [list(column) for column in zip(*matrix, strict=True)]
    for _ in range(60):
        for i in range(len(columns)):
            for j in range(i + 1, len(columns)):
                a, b = columns[i], columns[j]
                dot = sum(x * y for x, y in zip(a, b, strict=True))
                gap = sum(y * y for y in b) - sum(x * x for x in a)
                if abs(dot) < 1e-14:
                    continue
                angle = 0.5 * math.atan2(2 * dot, -gap)
                c, s = math.cos(angle), math.sin(angle)
                columns[i] = [c * x + s * y for x, y in zip(a, b, strict=True)]
                columns[j] = [c * y - s * x for x, y in zip(a, b, strict=True)]
    return [math.sqrt(sum(x * x for x in column)) for column in columns]


def reference(signals: Signals, *, centre: bool = False, power: float = 0.0) -> list[float]:
    scores = []
    for tokens in rows_of(signals):
        matrix = [token.logits for token in tokens]
        if centre:
            matrix = [[x - sum(row) / len(row) for x in row] for row in matrix]
        scores.append(sum(singular_values(matrix)) / len(tokens) ** power if tokens else 0.0)
    return scores


def exact(logits: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(logits.double()).sum(dim=-1)


@EVERY
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize(("length", "power"), [("none", 0.0), ("sqrt", 0.5), ("linear", 1.0)])
def test_agrees_with_singular_values_by_jacobi(case, centre, length, power):
    signals = signals_of(case)
    scores = NuclearNorm(centre=centre, length=length)(signals)
    assert scores.tolist() == pytest.approx(reference(signals, centre=centre, power=power), rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 64, 512), (3, 512, 64), (2, 1, 1000), (2, 300, 300), (4, 7, 5000)])
def test_agrees_with_the_decomposition_in_float64(shape):
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 5
    assert torch.allclose(nuclear_norm(logits).double(), exact(logits), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 256, 600), (2, 600, 256)])
@pytest.mark.parametrize("rank", [1, 3])
def test_stays_exact_where_most_singular_values_are_zero(shape, rank):
    random = torch.Generator().manual_seed(0)
    rows, tokens, classes = shape
    logits = torch.randn(rows, tokens, rank, generator=random) @ torch.randn(rows, rank, classes, generator=random)
    assert torch.allclose(nuclear_norm(logits).double(), exact(logits), rtol=1e-5)


def test_worked_numbers():
    row, column = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0, 2.0])
    assert nuclear_norm(torch.outer(column, row)[None]).item() == pytest.approx(3 * 5), "rank one"
    assert nuclear_norm(torch.diag(torch.tensor([3.0, -4.0, 0.5]))[None]).item() == pytest.approx(7.5), "orthogonal"
    assert nuclear_norm(row[None]).item() == pytest.approx(5.0), "no tokens"
    assert nuclear_norm(torch.ones(1, 4, 9)).item() == pytest.approx(6.0), "identical tokens"
    assert nuclear_norm(torch.ones(1, 4, 9), length="sqrt").item() == pytest.approx(3.0)
    assert nuclear_norm(torch.ones(1, 4, 9), length="linear").item() == pytest.approx(1.5)
    assert nuclear_norm(torch.ones(1, 4, 9), centre=True).item() == pytest.approx(0.0, abs=1e-6)


@given(SHAPES, st.floats(-100, 100, width=32))
def test_lies_between_the_frobenius_norm_and_root_rank_times_it(shape, factor):
    tokens, classes, seed = shape
    logits = torch.randn(2, tokens, classes, generator=torch.Generator().manual_seed(seed))
    norms, frobenius = nuclear_norm(logits), logits.norm(dim=(1, 2))
    assert (norms >= frobenius * (1 - 1e-5)).all()
    assert (norms <= frobenius * math.sqrt(min(tokens, classes)) * (1 + 1e-5)).all()
    assert torch.allclose(nuclear_norm(logits.mT), norms, rtol=1e-5)
    assert torch.allclose(nuclear_norm(factor * logits), abs(factor) * norms, rtol=1e-5)


def test_grows_with_length_unless_it_is_divided_out():
    logits = torch.randn(1, 80, 300, generator=torch.Generator().manual_seed(0))
    raw, fair = (
        [nuclear_norm(logits[:, :tokens], length=length).item() for tokens in (10, 20, 40, 80)]
        for length in ("none", "linear")
    )
    assert [long / short for short, long in itertools.pairwise(raw)] == pytest.approx([2, 2, 2], abs=0.2)
    assert max(fair) < 1.2 * min(fair)


@pytest.mark.parametrize("centre", [False, True])
def test_a_constant_changes_the_norm_unless_it_is_centred(centre):
    logits = torch.randn(3, 5, 8)
    same = torch.allclose(nuclear_norm(logits + 7, centre=centre), nuclear_norm(logits, centre=centre), rtol=1e-4)
    assert same == centre


@pytest.mark.parametrize("length", ["none", "sqrt", "linear"])
def test_padding_does_not_count_as_answer(length):
    logits, valid = torch.randn(2, 4, 6), torch.ones(2, 9, dtype=torch.bool)
    valid[:, 4:] = False
    padded = torch.cat([logits, 100 * torch.randn(2, 5, 6)], dim=1)
    score = NuclearNorm(length=length)
    assert torch.allclose(score(Signals(logits=padded, valid=valid)), score(Signals(logits=logits)), rtol=1e-5)


@pytest.mark.parametrize("case", MASKED)
@pytest.mark.parametrize("length", ["none", "linear"])
def test_all_tokens_take_padding_as_well(case, length):
    signals = signals_of(case)
    whole = dataclasses.replace(signals, valid=None)
    assert torch.equal(NuclearNorm("all", length=length)(signals), NuclearNorm(length=length)(whole))
    assert not torch.allclose(NuclearNorm("all")(signals), NuclearNorm()(signals))


@pytest.mark.parametrize("at_once", [1, 50, 10**9])
def test_is_the_same_however_many_rows_are_taken_at_once(at_once, monkeypatch):
    signals = signals_of("tokens")
    whole = NuclearNorm(centre=True)(signals)
    monkeypatch.setattr(head_gram, "_AT_ONCE", at_once)
    assert torch.allclose(NuclearNorm(centre=True)(signals), whole)


@EVERY
def test_permuting_the_rows_permutes_the_scores(case):
    signals, order = signals_of(case), torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(NuclearNorm()(signals.take(order)), NuclearNorm()(signals)[order])


@EVERY
def test_one_row(case):
    signals = signals_of(case)
    assert NuclearNorm()(signals.take(torch.tensor([2]))).tolist() == pytest.approx([NuclearNorm()(signals)[2].item()])


@pytest.mark.parametrize("case", MASKED)
@pytest.mark.parametrize("length", ["none", "sqrt", "linear"])
def test_a_row_without_valid_tokens_scores_zero(case, length):
    signals, score = signals_of(case), NuclearNorm(length=length)
    scores = score(masked(signals, row=1))
    assert scores[1] == 0
    assert torch.allclose(scores[[0, 2, 3, 4]], score(signals)[[0, 2, 3, 4]])


@EVERY
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("tokens", ["answer", "all"])
def test_what_is_not_finite_stays_in_its_row(case, value, tokens):
    signals, score = signals_of(case), NuclearNorm(tokens)
    scores = score(filled(signals, row=0, value=value))
    assert torch.allclose(scores[1:], score(signals)[1:])
    assert scores[0].isnan()


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_takes_any_dtype_even_under_autocast(case, dtype):
    signals = signals_of(case)
    rounded = dataclasses.replace(signals, logits=signals.logits.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = NuclearNorm()(rounded)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(reference(rounded), rel=1e-5)


def test_the_choice_survives_bfloat16():
    logits = torch.randn(6, 12, 40, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)[:, None, None]
    assert nuclear_norm(logits.bfloat16()).argsort().tolist() == [0, 1, 2, 3, 4, 5]


@EVERY
def test_extreme_logits_give_finite_scores(case):
    signals = signals_of(case)
    extreme = dataclasses.replace(signals, logits=signals.logits.sign() * 1e4)
    assert NuclearNorm()(extreme).tolist() == pytest.approx(reference(extreme), rel=1e-5)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("centre", [False, True])
def test_leaves_its_input_as_it_was_and_reads_nothing_back_to_the_host(case, dtype, centre):
    signals = signals_of(case)
    signals = dataclasses.replace(signals, logits=signals.logits.to(dtype))
    before = signals.logits.clone()
    assert not operations_of(NuclearNorm(centre=centre), signals).names & HOST_READS
    assert torch.equal(signals.logits, before)


def test_needs_no_labels_and_says_what_is_missing():
    assert isinstance(NuclearNorm(), Score)
    assert NuclearNorm().needs == {"head"}
    with pytest.raises(MissingSignalError, match=r"^NuclearNorm must have the signal 'head', got only loss"):
        NuclearNorm()(Signals(loss=torch.ones(2)))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("tokens", "prompt", "one of answer, all, got 'prompt'"),
        ("centre", 1, "true or false, got 1"),
        ("length", "log", "one of none, sqrt, linear, got 'log'"),
        ("length", None, "one of none, sqrt, linear, got None"),
    ],
)
def test_refuses_values_out_of_range(field, value, rule, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=rf"^NuclearNorm\.{field} must be {rule}"):
        NuclearNorm(**{field: value})
