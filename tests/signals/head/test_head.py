from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_select.errors import ArgumentError
from lightning_select.scores.nuclear_norm import nuclear_norm, sum_of_roots
from lightning_select.signals.head import gram as head_gram
from lightning_select.signals.head import head as head_module
from lightning_select.signals.head.cache import HeadCache
from lightning_select.signals.head.head import Head
from lightning_select.signals.head.terms import Dense, Linear, Mapped, Part, PerToken

SIZES = [
    (1, 8, 50),
    (1, 64, 2),
    (2, 5, 3),
    (7, 16, 1000),
    (40, 16, 300),
    (64, 64, 65),
    (65, 64, 2000),
    (24, 40, 33000),
    (300, 48, 1200),
    (300, 320, 350),
    (300, 400, 2),
]
"""Tokens, features, classes."""


def parts(tokens: int, features: int, classes: int, dtype=torch.float32, rows: int = 2):
    generator = torch.Generator().manual_seed(tokens * 7 + features)
    hidden = torch.randn(rows, tokens, features, generator=generator).to(dtype)
    weight = (torch.randn(classes, features, generator=generator) / math.sqrt(features)).to(dtype)
    bias = torch.randn(classes, generator=generator).to(dtype)
    return hidden, weight, bias


def exact(logits: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(logits.double()).sum(dim=-1)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() / expected - 1).abs().max())


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_is_that_of_the_true_logits(sizes, biased, dtype):
    hidden, weight, bias = parts(*sizes, dtype)
    logits = hidden.double() @ weight.double().T + (bias.double() if biased else 0.0)
    head = Head.linear(hidden, weight, bias if biased else None)
    assert relative(nuclear_norm(head), exact(logits)) < 1e-5
    centred = logits - logits.mean(dim=-1, keepdim=True)
    assert relative(nuclear_norm(head, centre=True), exact(centred)) < 1e-5


@pytest.mark.parametrize("spectrum", ["one direction stands out", "falls off", "some tokens twice", "rank one", "zero"])
@pytest.mark.parametrize("by_products", [False, True])
def test_small_singular_values_are_not_lost(spectrum, by_products):
    hidden, weight, _ = parts(60, 80, 500)
    if spectrum == "one direction stands out":
        hidden[..., 0] *= 3000
    elif spectrum == "falls off":
        hidden *= 10.0 ** -torch.linspace(0, 6, 80)
    elif spectrum == "some tokens twice":
        hidden[:, 30:] = hidden[:, :30]
    elif spectrum == "rank one":
        hidden[:] = hidden[:, :1]
    else:
        hidden[:] = 0
    expected = exact(hidden.double() @ weight.double().T)
    found = sum_of_roots(Head.linear(hidden, weight).gram(), by_products=by_products)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("side", [1, 2, 33, 200])
def test_matrix_products_find_what_the_solver_finds(side):
    factor = torch.randn(3, side, side + 5, dtype=torch.float64, generator=torch.Generator().manual_seed(side))
    gram = factor @ factor.mT
    assert relative(sum_of_roots(gram, by_products=True), sum_of_roots(gram, by_products=False)) < 1e-9


@pytest.mark.parametrize("sizes", [(12, 8, 90), (6, 8, 90), (12, 8, 5)], ids=str)
def test_tokens_that_do_not_count_are_as_if_they_were_not_there(sizes):
    hidden, weight, bias = parts(*sizes)
    used = torch.rand(hidden.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.6
    used[:, 0] = True
    hidden[~used] = math.nan
    for row in range(len(hidden)):
        short = hidden[row][used[row]].double() @ weight.double().T + bias.double()
        found = nuclear_norm(Head.linear(hidden, weight, bias), used)[row]
        assert relative(found, exact(short)) < 1e-5


@pytest.mark.parametrize("at_once", [1, 50, 10**9])
def test_is_the_same_however_much_is_held_at_once(at_once, monkeypatch):
    hidden, weight, bias = parts(9, 6, 40)
    heads = [
        Head.linear(hidden, weight, bias),
        Head.of(hidden @ weight.T + bias),
        Head(Mapped(torch.tanh, (Linear((Part(hidden, weight),)),)), (2, 9, 40)),
    ]
    projection = torch.randn(4, 40)
    whole = [(h.gram(centre=True), h.narrow("p", lambda: projection)) for h in heads]
    monkeypatch.setattr(head_gram, "_AT_ONCE", at_once)
    monkeypatch.setattr(head_module, "_AT_ONCE", at_once)
    monkeypatch.setattr(head_gram, "_BLOCK", 4)
    for head, (gram, narrow) in zip(heads, whole, strict=True):
        fresh = Head(head.term, head.shape)
        roots = [sum_of_roots(gram), sum_of_roots(fresh.gram(centre=True))]
        torch.testing.assert_close(roots[1], roots[0])
        torch.testing.assert_close(fresh.narrow("p", lambda: projection), narrow, rtol=1e-4, atol=1e-5)


def test_a_head_that_is_not_linear_is_summed_over_the_classes(monkeypatch):
    hidden, weight, _ = parts(10, 16, 700)
    factor = torch.rand(2, 10, 1) + 0.5
    term = Mapped(torch.mul, (Mapped(torch.tanh, (Linear((Part(hidden, weight),)),)), PerToken(factor)))
    head = Head(term, (2, 10, 700))
    logits = torch.tanh(hidden @ weight.T) * factor
    monkeypatch.setattr(head_module, "_AT_ONCE", 500)
    monkeypatch.setattr(head_gram, "_AT_ONCE", 500)
    used = torch.arange(10) < torch.tensor([[10], [4]])
    for centre in (False, True):
        values = logits - logits.mean(-1, keepdim=True) if centre else logits
        expected = exact(values * used.unsqueeze(-1))
        assert relative(nuclear_norm(head, used, centre=centre), expected) < 1e-5
    projection = torch.randn(6, 700)
    torch.testing.assert_close(head.narrow(0, lambda: projection), logits @ projection.T, rtol=1e-4, atol=1e-4)


def test_layers_that_are_added_up_are_one_head():
    (hidden, weight, bias), (inner, up, _) = parts(9, 12, 80), parts(9, 3, 80)
    head = Head(Linear((Part(hidden, weight), Part(inner, up))).shifted(bias), (2, 9, 80))
    logits = hidden.double() @ weight.double().T + inner.double() @ up.double().T + bias.double()
    assert relative(nuclear_norm(head), exact(logits)) < 1e-6
    projection = torch.randn(6, 80)
    torch.testing.assert_close(head.narrow(0, lambda: projection), logits.float() @ projection.T, rtol=1e-4, atol=1e-4)


def test_rows_without_tokens():
    hidden, weight, bias = parts(1, 12, 80)
    head = Head.linear(hidden[:, 0], weight, bias)
    expected = (hidden[:, 0] @ weight.T + bias).norm(dim=1)
    torch.testing.assert_close(nuclear_norm(head), expected)


def test_takes_rows():
    hidden, weight, bias = parts(5, 6, 30, rows=4)
    head, order = Head.linear(hidden, weight, bias), torch.tensor([2, 0])
    torch.testing.assert_close(head[order].logits(), (hidden @ weight.T + bias)[order])
    assert head[order].shape == (2, 5, 30)


def test_products_of_the_weights_are_kept_until_they_change(monkeypatch):
    hidden, weight, _ = parts(5, 6, 30)
    layer, cache, made = nn.Linear(6, 30, bias=False), HeadCache(), []
    real = head_gram._head_gram
    monkeypatch.setattr(head_gram, "_head_gram", lambda *a, **k: made.append(1) or real(*a, **k))

    def norm() -> torch.Tensor:
        head = Head(Linear((Part(hidden, layer.weight),)), (2, 5, 30), cache)
        found = nuclear_norm(head)
        assert relative(found, exact(hidden @ layer.weight.detach().T)) < 1e-5
        return found

    norm(), norm()
    assert len(made) == 1
    with torch.no_grad():
        layer.weight.mul_(1.5)
    norm(), norm()
    assert len(made) == 2
    layer.weight.data.mul_(0.5)  # torch does not count this, but a trained weight is not trusted beyond a step
    cache.step = 1
    norm(), norm()
    assert len(made) == 3
    layer.weight.requires_grad_(False)
    cache.step = 2
    norm()
    cache.step = 3
    norm()
    assert len(made) == 4, "a frozen weight is good for more than one step"
    layer.weight = nn.Parameter(weight.clone())
    norm()
    assert len(made) == 5


@pytest.mark.parametrize(
    ("weight", "bias"), [((30, 7), None), ((30,), None), ((30, 6), (30, 1))], ids=["features", "dims", "bias"]
)
def test_sizes_that_do_not_belong_together_are_an_error(weight, bias):
    with pytest.raises(ArgumentError, match="Head.linear must get"):
        Head.linear(torch.zeros(2, 5, 6), torch.zeros(weight), None if bias is None else torch.zeros(bias))


def test_a_row_that_is_not_finite_spoils_no_other():
    hidden, weight, _ = parts(5, 6, 30, rows=3)
    hidden[1, 2, 3] = math.inf
    norms = nuclear_norm(Head.linear(hidden, weight))
    assert norms.isfinite().tolist() == [True, False, True]
    assert isinstance(Head.of(hidden @ weight.T).term, Dense)
    assert nuclear_norm(Head.of(hidden @ weight.T)).isfinite().tolist() == [True, False, True]


def test_halves_do_not_overflow():
    hidden, weight, _ = parts(5, 64, 300, torch.float16)
    hidden, weight = hidden * 200, weight * 50  # logits of up to 1e5, more than float16 holds
    norms = nuclear_norm(Head.linear(hidden, weight))
    assert relative(norms, exact(hidden.double() @ weight.double().T)) < 1e-5


@pytest.mark.parametrize(
    ("operands", "kept"),
    [
        ((torch.full((), 2.0), torch.full((), 2.0)), True),
        ((torch.full((), 2.0), torch.full((), 3.0)), False),
        ((2.0, 2.0), True),
        ((2.0, 3.0), False),
    ],
    ids=["one tensor", "two tensors", "one number", "two numbers"],
)
@pytest.mark.parametrize("way", ["argument", "keyword"])
def test_heads_of_pieces_are_one_where_their_operands_are(operands, kept, way):
    """A step may take a number from its rows, which is another one in each piece."""
    heads, (hidden, weight, _) = [], parts(5, 8, 50)
    for operand in operands:
        args, more = ((operand,), {}) if way == "argument" else ((1.0,), {"alpha": operand})
        heads.append(Head(Mapped(torch.add, (Linear.of(hidden, weight), *args), more), (2, 5, 50)))
    joined = Head.joined(heads)
    assert isinstance(joined.term, Mapped) is kept
    torch.testing.assert_close(joined.logits(), torch.cat([head.logits() for head in heads]))


def test_heads_of_pieces_keep_an_operand_per_class_of_which_each_has_a_copy():
    hidden, weight, bias = parts(5, 8, 50)
    heads = [Head(Linear.of(hidden, weight).shifted(bias.clone()), (2, 5, 50)) for _ in range(2)]
    joined = Head.joined(heads)
    assert not isinstance(joined.term, Dense)
    torch.testing.assert_close(joined.logits(), torch.cat([head.logits() for head in heads]))
