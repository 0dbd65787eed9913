from __future__ import annotations

import math

import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.preferences.pair_loss import PairLoss, pair_loss


def reference(margin: float, smoothing: float) -> float:
    chosen = 1 / (1 + math.exp(-margin))
    return -(1 - smoothing) * math.log(chosen) - smoothing * math.log(1 - chosen)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_it_is_that_of_the_formula(smoothing):
    margins = [-3.0, -0.5, 0.0, 0.2, 4.0]
    expected = [reference(margin, smoothing) for margin in margins]
    found = pair_loss(torch.tensor(margins, dtype=torch.float64), smoothing)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    mean = PairLoss(smoothing)(torch.tensor(margins, dtype=torch.float64))
    assert float(mean) == pytest.approx(sum(expected) / len(expected))


def test_the_gradient_is_that_of_the_formula():
    margins = torch.tensor([-3.0, 0.5], dtype=torch.float64, requires_grad=True)
    PairLoss(0.1)(margins).backward()
    step = 1e-6
    for row, margin in enumerate([-3.0, 0.5]):
        slope = (reference(margin + step, 0.1) - reference(margin - step, 0.1)) / (2 * step)
        assert float(margins.grad[row]) == pytest.approx(slope / 2, rel=1e-6)


def test_large_margins_stay_finite():
    assert pair_loss(torch.tensor([-1e4, 1e4])).tolist() == [1e4, 0.0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("smoothing", [-0.1, 0.5, "0.1", True])
def test_what_is_out_of_range_is_told(smoothing):
    with pytest.raises(ArgumentError, match=r"PairLoss.smoothing must be in \[0, 0.5\), got"):
        PairLoss(smoothing)
