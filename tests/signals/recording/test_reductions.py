from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_select.signals.layout.rows import Layout, row_values
from lightning_select.signals.recording.capture import Capture
from lightning_select.signals.recording.reductions import LOSSES, recognise
from tests.signals.losses import CASES, ROWS, Case

BOTH = pytest.mark.parametrize("reduction", ["mean", "sum"])
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_loss_of_torch_is_recognised() -> None:
    found = set()
    for name in dir(F):
        func = getattr(F, name)
        if (
            not inspect.isfunction(func)
            or name.startswith("_")
            or "reduction" not in inspect.signature(func).parameters
        ):
            continue
        found.add(func)
    assert found == LOSSES, "torch has a new loss: add it to signals/reductions.py and to tests/signals/losses.py"
    assert {case.func for case in CASES} == LOSSES


@EVERY
@BOTH
def test_terms_add_up_to_the_scalar(case: Case, reduction: str) -> None:
    arguments = case.arguments()
    found = recognise(case.func, (), {**arguments, **case.shared(), "reduction": reduction})
    assert found is not None
    terms = found.terms()
    torch.testing.assert_close((terms.values * terms.norm).sum(), case.call(arguments, reduction).detach())
    assert not terms.values.requires_grad


@EVERY
@BOTH
def test_weighted_gradient_is_the_hand_written_one(case: Case, reduction: str) -> None:
    weights = torch.tensor([0.0, 0.3, 1.0, 1.7, 2.0])
    arguments = case.arguments()
    leaves = [v for v in (arguments | case.shared()).values() if isinstance(v, torch.Tensor) and v.requires_grad]
    plain = case.call(arguments, reduction)
    with Capture(gated=True) as capture:
        loss = case.call(arguments, reduction)
    assert torch.equal(loss, plain)
    capture.records[0].weigh(weights, Layout(0))
    got = torch.autograd.grad(loss, leaves, allow_unused=True)
    expected = torch.autograd.grad(case.weighted(arguments, weights, reduction), leaves, allow_unused=True)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@EVERY
@BOTH
def test_unit_weights_change_no_bit_of_the_gradient(case: Case, reduction: str) -> None:
    arguments = case.arguments()
    leaves = [v for v in arguments.values() if isinstance(v, torch.Tensor) and v.requires_grad]
    expected = torch.autograd.grad(case.call(arguments, reduction), leaves)
    with Capture(gated=True) as capture:
        loss = case.call(arguments, reduction)
    capture.records[0].weigh(torch.ones(ROWS), Layout(0))
    by_arguments = capture.records[0].reduction.by_arguments
    for mine, theirs in zip(torch.autograd.grad(loss, leaves), expected, strict=True):
        assert torch.equal(mine, theirs) or (not by_arguments and torch.allclose(mine, theirs, rtol=1e-6))


@EVERY
@BOTH
def test_a_step_that_nobody_weighs_keeps_its_own_graph(case: Case, reduction: str) -> None:
    arguments = case.arguments()
    leaves = [v for v in (arguments | case.shared()).values() if isinstance(v, torch.Tensor) and v.requires_grad]
    plain = case.call(arguments, reduction)
    with Capture(gated=True, weighs=False) as capture:
        loss = case.call(arguments, reduction)
    assert type(loss.grad_fn) is type(plain.grad_fn)
    assert torch.equal(loss, plain)
    assert not capture.records[0].gates
    expected = torch.autograd.grad(plain, leaves, allow_unused=True)
    for mine, theirs in zip(torch.autograd.grad(loss, leaves, allow_unused=True), expected, strict=True):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)


@EVERY
def test_row_losses_are_those_of_the_rows_alone(case: Case) -> None:
    arguments = case.arguments()
    found = recognise(case.func, (), {**arguments, **case.shared(), "reduction": "mean"})
    assert found is not None
    values = row_values(found.terms(), Layout(0), ROWS)
    alone = torch.stack([case.call(case.row(arguments, position), "mean").detach() for position in range(ROWS)])
    if "weight" in case.name or case.name == "nll":  # a lone row divides by its own class weight, a batch by the sum
        target = arguments["target"]
        weight = case.shared()["weight"]
        valid = target != -100
        per_row = torch.where(valid, weight[target.clamp(min=0)], 0.0).reshape(ROWS, -1).sum(1)
        alone = alone * per_row / valid.reshape(ROWS, -1).sum(1) * valid.sum() / per_row.sum()
    if case.name in ("mse_by_number", "l1_by_number"):  # so it does here, where the weights are those of its numbers
        per_row = arguments["weight"].sum(1)
        alone = alone * per_row / per_row.mean()
    torch.testing.assert_close(values, alone)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("mean", lambda x: x.mean()),
        ("torch.mean", lambda x: torch.mean(x)),
        ("mean of named input", lambda x: torch.mean(input=x)),
        ("mean over both axes", lambda x: x.mean(dim=(0, 1))),
        ("mean over the rows of one column", lambda x: x.mean(1, keepdim=True).mean(0)),
        ("sum", lambda x: x.sum()),
        ("sum, other dtype", lambda x: x.sum(dtype=torch.float64)),
        ("nansum", lambda x: x.nansum()),
        ("nanmean", lambda x: torch.nanmean(x)),
        ("norm", lambda x: x.norm()),
        ("linalg.norm", lambda x: torch.linalg.norm(x)),
        ("vector_norm", lambda x: torch.linalg.vector_norm(x)),
        ("row mean first", lambda x: x.mean(1).mean()),
        ("row sum first", lambda x: x.sum(dim=-1).mean(dim=0)),
    ],
)
def test_arithmetic_is_recognised_and_weighted(name: str, call) -> None:
    weights = torch.tensor([0.0, 0.3, 1.0, 1.7, 2.0])
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with Capture(gated=True) as capture:
        loss = call(x)
    assert len(capture.records) == 1
    capture.records[0].weigh(weights, Layout(0))
    (got,) = torch.autograd.grad(loss.sum(), x)
    (plain,) = torch.autograd.grad(call(x).sum(), x)
    torch.testing.assert_close(got, plain * weights[:, None].to(plain.dtype))
    terms = capture.records[0].terms
    if "norm" not in name:
        torch.testing.assert_close((terms.values * terms.norm).sum(), call(x).detach().sum(), check_dtype=False)


@pytest.mark.parametrize("call", [torch.dot, torch.matmul, torch.inner, lambda a, b: a @ b, lambda a, b: (a * b).sum()])
def test_products_of_vectors_are_weighted_on_both_sides(call) -> None:
    weights = torch.tensor([0.0, 0.3, 1.0, 1.7, 2.0])
    a, b = (torch.randn(ROWS, requires_grad=True) for _ in range(2))
    with Capture(gated=True) as capture:
        loss = call(a, b)
    capture.records[0].weigh(weights, Layout(0))
    expected = torch.autograd.grad((weights * a * b).sum(), (a, b))
    torch.testing.assert_close(torch.autograd.grad(loss, (a, b)), expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.mean(dim=0),
        lambda x: F.mse_loss(x, x.detach(), reduction="none"),
        lambda x: F.mse_loss(x, x.detach(), reduce=False),
        lambda x: x.sum(1),
        lambda x: x.argmax().float(),
        lambda x: (x > 0).sum(),
        lambda x: x[0, 0].sum(),
        lambda x: x.mean(dim=[0, 1], keepdim=True),
        lambda x: x[:1].mean(dim=1, keepdim=True),
        lambda x: x[:1].mean(dim=1),
        lambda x: x[:1].sum(-1, True),
    ],
)
def test_other_calls_are_left_alone(call) -> None:
    x = torch.randn(ROWS, 3, requires_grad=True)
    with Capture(gated=True) as capture:
        call(x)
    assert not capture.records


@pytest.mark.parametrize(
    ("legacy", "reduction"),
    [({"size_average": False}, "sum"), ({"size_average": True}, "mean"), ({"reduce": True}, "mean")],
)
@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
def test_deprecated_arguments_mean_what_they_meant(legacy: dict[str, bool], reduction: str) -> None:
    x, y = torch.randn(ROWS, 3), torch.randn(ROWS, 3)
    found = recognise(F.mse_loss, (x, y), legacy)
    assert found is not None
    terms = found.terms()
    torch.testing.assert_close((terms.values * terms.norm).sum(), F.mse_loss(x, y, reduction=reduction))


def test_batchmean_divides_by_the_rows() -> None:
    x, y = torch.randn(ROWS, 3).log_softmax(-1), torch.randn(ROWS, 3).softmax(-1)
    found = recognise(F.kl_div, (x, y), {"reduction": "batchmean"})
    assert found is not None
    torch.testing.assert_close(row_values(found.terms(), Layout(0), ROWS), F.kl_div(x, y, reduction="none").sum(1))


def test_modules_of_torch_nn_pass_through_the_same_door() -> None:
    x, y = torch.randn(ROWS, 4, requires_grad=True), torch.randint(0, 4, (ROWS,))
    with Capture(gated=True) as capture:
        nn.CrossEntropyLoss(label_smoothing=0.1)(x, y)
        nn.MultiMarginLoss()(x, y)
        nn.AdaptiveLogSoftmaxWithLoss(4, 8, [3])(x, y)
    assert [record.reduction.name for record in capture.records] == [
        "F.cross_entropy",
        "F.multi_margin_loss",
        "Tensor.mean",
    ]


def test_half_precision_terms_are_float32() -> None:
    x, y = torch.randn(ROWS, 4, dtype=torch.bfloat16), torch.randint(0, 4, (ROWS,))
    found = recognise(F.cross_entropy, (x, y), {})
    assert found is not None
    assert found.terms().values.dtype is torch.float32


def test_a_weight_of_zero_silences_a_gradient_that_is_not_finite() -> None:
    x = torch.tensor([1.0, float("inf"), 2.0], requires_grad=True)
    with Capture(gated=True) as capture:
        loss = (x * x).sum()
    capture.records[0].weigh(torch.tensor([1.0, 0.0, 2.0]), Layout(0))
    (grad,) = torch.autograd.grad(loss, x)
    assert grad[0] == 2
    assert grad[2] == 8
