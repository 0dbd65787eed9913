from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError
from lightning_select.protocols import Weighting
from lightning_select.schedule import Anneal, resolve
from lightning_select.weightings.self_paced import SelfPaced, self_paced
from tests.scores.cases import HOST_READS, Operations

LOSSES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 2.5, 7.0]), min_size=1, max_size=9)
SHARES = st.sampled_from([0.01, 0.25, 0.5, 0.75, 1.0])


def reference(losses: list[float], share: float, *, soft: bool) -> list[float]:
    """Count the rows, find the largest loss among the smallest, and weigh row by row."""
    kept = max(1, math.floor(share * len(losses) + 0.5))
    threshold = sorted(losses)[kept - 1]
    hard = [1.0 if loss <= threshold else 0.0 for loss in losses]
    if not soft:
        return hard
    if threshold == 0:
        return [1.0 if loss == 0 else 0.0 for loss in losses]
    linear = [max(0.0, 1 - loss / threshold) for loss in losses]
    return linear if sum(linear) > 0 else hard


@given(LOSSES, SHARES, st.booleans())
def test_follows_the_definition(losses, share, soft):
    weights = self_paced(torch.tensor(losses), share, soft=soft).tolist()
    assert weights == pytest.approx(reference(losses, share, soft=soft), abs=1e-6)
    assert sum(weights) > 0
    assert all(0 <= weight <= 1 for weight in weights)


@pytest.mark.parametrize(
    ("share", "soft", "expected"),
    [
        (0.5, False, [1, 0, 1, 0]),
        (0.25, False, [1, 0, 0, 0]),
        (0.01, False, [1, 0, 0, 0]),
        (1.0, False, [1, 1, 1, 1]),
        (1.0, True, [0.9, 0.0, 0.75, 0.5]),
        (0.75, True, [0.8, 0.0, 0.5, 0.0]),
        (0.25, True, [1, 0, 0, 0]),
    ],
)
def test_the_share_of_rows_with_the_smallest_losses(share, soft, expected):
    weights = SelfPaced(share, soft)(torch.tensor([0.2, 2.0, 0.5, 1.0]))
    assert weights.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("losses", [[3.0], [0.0], [-2.0], [1.5] * 4, [0.0] * 4, [-2.0] * 4])
def test_equal_losses_all_count(losses, soft):
    assert SelfPaced(0.5, soft)(torch.tensor(losses)).tolist() == [1.0] * len(losses)


def test_of_equal_losses_at_the_threshold_all_count():
    assert self_paced(torch.tensor([1.0, 2.0, 1.0, 1.0]), 0.5).tolist() == [1.0, 0.0, 1.0, 1.0]


def test_negative_losses_are_measured_from_the_smallest():
    losses = torch.tensor([-3.0, 1.0, -1.0, -2.0])
    assert self_paced(losses, 0.75, soft=True).tolist() == pytest.approx([1.0, 0.0, 0.0, 0.5])
    assert self_paced(losses, 0.5).tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("soft", [False, True])
def test_permuting_the_rows_permutes_the_weights(soft):
    losses, order = torch.tensor([0.2, 5.0, 1.0, 1.0, 3.0, 0.0]), torch.tensor([3, 1, 5, 0, 2, 4])
    weighting = SelfPaced(0.6, soft)
    assert torch.equal(weighting(losses[order]), weighting(losses)[order])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_detached_and_of_the_dtype_of_the_losses(dtype, soft):
    losses = torch.rand(5, dtype=dtype, requires_grad=True)
    weights = SelfPaced(0.6, soft)(losses)
    assert not weights.requires_grad
    assert weights.dtype == dtype
    assert torch.allclose(weights.float(), SelfPaced(0.6, soft)(losses.detach().float()), rtol=1e-2)


def test_half_of_the_rows_at_first_and_all_from_the_middle_of_training():
    losses = torch.arange(8.0)
    counted = [int(resolve(SelfPaced(), step, 100)(losses).sum()) for step in (0, 25, 50, 100)]
    assert counted == [4, 6, 8, 8]
    assert SelfPaced()(losses).tolist() == SelfPaced(0.5)(losses).tolist()


@pytest.mark.parametrize("share", [0.0, 1.1, math.nan, True, "1", Anneal(begin=0.0, end=1.0)])
def test_the_share_is_in_range(share, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^SelfPaced.share must be in \(0, 1\], got "):
        SelfPaced(share)


def test_soft_is_a_bool(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^SelfPaced.soft must be true or false, got 'linear'"):
        SelfPaced(soft="linear")


@pytest.mark.parametrize("soft", [False, True])
def test_reads_nothing_back_to_the_host(soft):
    with Operations() as operations:
        SelfPaced(0.5, soft)(torch.rand(8))
    assert not operations.names & HOST_READS


def test_is_a_weighting():
    assert isinstance(SelfPaced(), Weighting)
