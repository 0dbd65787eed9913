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
from lightning_select.weightings.focal import Focal, focal
from tests.scores.cases import HOST_READS, Operations


@given(st.lists(st.floats(0.001, 80), min_size=1, max_size=9), st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_is_one_minus_the_probability_to_the_power_of_gamma(losses, gamma):
    expected = [(1 - math.exp(-loss)) ** gamma for loss in losses]
    assert focal(torch.tensor(losses), gamma).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-30)


def test_weighted_cross_entropy_is_the_focal_loss():
    logits, targets = torch.randn(6, 4), torch.tensor([0, 3, 1, 2, 2, 0])
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    weighted = Focal(gamma=2.0)(losses) * losses
    for row in range(6):
        powers = [math.exp(x) for x in logits[row].tolist()]
        p = powers[targets[row]] / sum(powers)
        assert weighted[row].item() == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-4)


def test_numbers_of_the_paper():
    # At gamma 2, a row with p = .9 has 100 times and one with p = .968 about 1000 times lower loss.
    weights = Focal(gamma=2.0)(-torch.tensor([0.9, 0.968]).log())
    assert (1 / weights).tolist() == pytest.approx([100, 1000], rel=0.03)


def test_small_losses_keep_their_digits():
    # In float32, 1 - exp(-1e-6) is off by several percent when computed as written.
    assert focal(torch.tensor([1e-6, 1.0]), 1.0)[0].item() == pytest.approx(1e-6, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("losses", [[0.0, 0.0, 0.0], [-1.0, 0.0], [0.0]])
def test_where_no_row_has_weight_all_have(losses, gamma):
    assert focal(torch.tensor(losses), gamma).tolist() == [1.0] * len(losses)


def test_a_negative_loss_counts_as_zero():
    assert focal(torch.tensor([-2.0, 1.0]), 1.0).tolist() == pytest.approx([0.0, 1 - math.exp(-1)])


def test_equal_losses_have_equal_weights_and_permuting_the_rows_permutes_them():
    assert len(set(Focal()(torch.full((5,), 1.3)).tolist())) == 1
    losses, order = torch.rand(6), torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(Focal()(losses[order]), Focal()(losses)[order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_detached_and_of_the_dtype_of_the_losses(dtype):
    losses = torch.rand(5, dtype=dtype, requires_grad=True)
    weights = Focal()(losses)
    assert not weights.requires_grad
    assert weights.dtype == dtype
    assert torch.allclose(weights.float(), Focal()(losses.detach().float()), rtol=1e-2)


def test_weights_too_small_for_their_dtype_are_not_all_zero():
    assert Focal()(torch.full((3,), 1e-4, dtype=torch.float16)).tolist() == [1.0] * 3


def test_an_anneal_counts_as_its_number_or_by_hand_as_its_begin():
    annealed, losses = Focal(gamma=Anneal(begin=0.0, end=2.0)), torch.rand(5)
    assert resolve(annealed, 5, 10) == Focal(gamma=1.0)
    assert annealed(losses).tolist() == [1.0] * 5


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf, True, "2", Anneal(begin=1.0, end=-1.0)])
def test_gamma_is_a_number_from_zero(gamma, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^Focal.gamma must be a finite number, at least 0, got "):
        Focal(gamma=gamma)


def test_reads_nothing_back_to_the_host():
    with Operations() as operations:
        Focal()(torch.rand(8))
    assert not operations.names & HOST_READS


def test_is_a_weighting():
    assert isinstance(Focal(), Weighting)
