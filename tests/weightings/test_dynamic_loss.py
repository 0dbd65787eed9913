from __future__ import annotations

import math
from collections.abc import Iterator
from unittest import mock

import jaxtyping
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_select import looking
from lightning_select.errors import ArgumentError
from lightning_select.protocols import Weighting
from lightning_select.schedule import Anneal, resolve
from lightning_select.weightings.dynamic_loss import DynamicLoss, dynamic_loss
from tests.scores.cases import HOST_READS, Operations

SHAPES = {
    "linupper": lambda h: min(h + 1, 1.0),
    "quadratic": lambda h: 1 - h * h,
    "extremes": abs,
    "upper": lambda h: h / 2 + 0.5,
    "uniform": lambda h: 0.0,
}
TABLE = {
    "linupper": [0.0, 0.5, 1.0, 1.0, 1.0],
    "quadratic": [0.0, 0.75, 1.0, 0.75, 0.0],
    "extremes": [1.0, 0.5, 0.0, 0.5, 1.0],
    "upper": [0.0, 0.25, 0.5, 0.75, 1.0],
    "uniform": [0.0, 0.0, 0.0, 0.0, 0.0],
}
LOSSES = st.lists(st.floats(0, 50, width=32), min_size=1, max_size=12)
OUTLIER = [3.2 + 0.01 * row for row in range(31)] + [30.0]


@pytest.fixture(autouse=True, scope="module", params=["values may be looked at", "as on a device"])
def device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything holds on both ways to the weights."""
    free = frozenset({"cpu"}) if request.param.startswith("values") else frozenset()
    with mock.patch.object(looking, "_FREE", free):
        yield


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def width(low: float, high: float) -> float:
    """The range in units of the width below which all weights are one."""
    return (high - low) / (1e-4 * max(1.0, abs(high)))


def reference(losses: list[float], strategy: str, r: float, quantiles: tuple[float, float] | None) -> list[float]:
    """The pipeline of the paper, row by row."""
    low, high = (quantile(losses, share) for share in quantiles or (0.0, 1.0))
    if width(low, high) < 1:
        return [1.0] * len(losses)
    places = [min(max((2 * loss - low - high) / (high - low), -1.0), 1.0) for loss in losses]
    parts = [math.exp(SHAPES[strategy](h) / r) for h in places]
    return [len(losses) * part / sum(parts) for part in parts]


@given(
    LOSSES,
    st.sampled_from(sorted(SHAPES)),
    st.sampled_from([0.3, 1.0, 10.0]),
    st.sampled_from([None, (0.0, 0.95), (0.1, 0.5)]),
)
def test_follows_the_paper(losses, strategy, r, quantiles):
    # On the very edge, float32 and the float64 of the reference fall on different sides.
    assume(abs(width(*(quantile(losses, share) for share in quantiles or (0.0, 1.0))) - 1) > 1e-2)
    weights = dynamic_loss(torch.tensor(losses), strategy, r, quantiles)
    assert weights.tolist() == pytest.approx(reference(losses, strategy, r, quantiles), rel=2e-2, abs=1e-4)
    assert weights.mean().item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("strategy", sorted(TABLE))
def test_the_table_of_shapes(strategy):
    # Losses 1 to 5 lie at -1, -.5, 0, .5 and 1, so the logarithms of the weights differ as the shapes do.
    weights = dynamic_loss(torch.arange(1.0, 6.0), strategy, temperature=0.7)
    values = 0.7 * weights.log()
    expected = [value - TABLE[strategy][0] for value in TABLE[strategy]]
    assert (values - values[0]).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("strategy", ["linupper", "quadratic", "extremes", "upper"])
@pytest.mark.parametrize(("r", "ratio"), [(1.0, 2.718), (0.4, 12.18), (0.2, 148.4), (0.1, 22026), (10.0, 1.105)])
def test_the_ratio_of_extreme_weights(strategy, r, ratio):
    weights = dynamic_loss(torch.linspace(-3.0, 8.0, 21), strategy, r)
    assert (weights.max() / weights.min()).item() == pytest.approx(math.exp(1 / r), rel=1e-4)
    assert math.exp(1 / r) == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize("strategy", sorted(SHAPES))
def test_a_high_temperature_is_uniform(strategy):
    assert dynamic_loss(torch.rand(9), strategy, 1e6).tolist() == pytest.approx([1.0] * 9, abs=1e-5)


def test_uniform_is_exactly_uniform():
    # The README of the official code has .07 .14 .27 .52 of the weight here, at r = 1.
    assert dynamic_loss(torch.tensor([1.0, 2.0, 3.0, 4.0]), "uniform", 1.0).tolist() == [1.0] * 4
    assert dynamic_loss(torch.rand(97), "uniform", 0.1).tolist() == [1.0] * 97


@pytest.mark.parametrize("gap", [0.01, 1.0, 40.0])
def test_two_rows(gap):
    losses = torch.tensor([2.0, 2.0 + gap])
    assert (DynamicLoss("linupper", 0.4)(losses) / 2).tolist() == pytest.approx([0.076, 0.924], abs=5e-4)
    assert (DynamicLoss("extremes", 0.4)(losses) / 2).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("strategy", "largest"), [("linupper", 1.47), ("quadratic", 1.84), ("extremes", 2.71)])
def test_largest_weight_for_evenly_spread_losses(strategy, largest):
    weights = dynamic_loss(torch.linspace(0.0, 1.0, 2001), strategy, 0.4)
    assert weights.max().item() == pytest.approx(largest, abs=0.015)


def test_one_outlier_takes_the_range_and_quantiles_give_it_back():
    share = dynamic_loss(torch.tensor(OUTLIER), "linupper", 0.4)[-1].item() / 32
    assert share == pytest.approx(0.273, abs=0.02)
    equal = dynamic_loss(torch.tensor([3.2] * 31 + [30.0]), "linupper", 0.4)[-1].item() / 32
    assert equal == pytest.approx(math.exp(2.5) / (31 + math.exp(2.5)))
    mended = dynamic_loss(torch.tensor(OUTLIER), "linupper", 0.4, (0.0, 0.95))
    assert mended[-1].item() / 32 < 0.05
    assert mended[-1] == mended[-2]
    assert mended[:31].std() > 0.3


@pytest.mark.parametrize("losses", [[7.0], [2.5] * 6, [0.0] * 3, [3.0, 3.0 + 1e-6, 3.0], [1e4, 1e4 + 0.5]])
def test_no_spread_to_speak_of_is_uniform(losses):
    assert DynamicLoss()(torch.tensor(losses)).tolist() == [1.0] * len(losses)


@given(st.permutations(range(7)), st.sampled_from([None, (0.1, 0.9)]))
def test_permuting_the_rows_permutes_the_weights(order, quantiles):
    losses, order = torch.tensor([0.2, 5.0, 1.0, 1.0, 3.0, 0.0, 0.7]), torch.tensor(order)
    weighting = DynamicLoss(quantiles=quantiles)
    assert torch.allclose(weighting(losses[order]), weighting(losses)[order])


@pytest.mark.parametrize("quantiles", [None, (0.1, 0.9)])
@pytest.mark.parametrize("strategy", sorted(SHAPES))
def test_a_row_whose_loss_is_not_finite_has_no_weight_and_does_not_count(strategy, quantiles):
    weights = dynamic_loss(torch.tensor([1.0, torch.nan, 2.0, torch.inf, 6.0, -torch.inf]), strategy, 0.4, quantiles)
    first, second, third = reference([1.0, 2.0, 6.0], strategy, 0.4, quantiles)
    assert weights.tolist() == pytest.approx([first, 0.0, second, 0.0, third, 0.0], rel=1e-4)
    assert dynamic_loss(torch.full((3,), torch.nan), strategy, 0.4, quantiles).tolist() == [0.0] * 3
    assert dynamic_loss(torch.tensor([torch.inf, 2.0]), strategy, 0.4, quantiles).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_detached_and_of_the_dtype_of_the_losses(dtype):
    losses = torch.rand(5, dtype=dtype, requires_grad=True)
    weights = DynamicLoss()(losses)
    assert not weights.requires_grad
    assert weights.dtype == dtype
    assert torch.allclose(weights.float(), DynamicLoss()(losses.detach().float()), rtol=1e-2)


def test_an_anneal_counts_as_its_number_or_by_hand_as_its_begin():
    annealed, losses = DynamicLoss(temperature=Anneal(begin=10.0, end=0.4)), torch.rand(5)
    assert resolve(annealed, 5, 10) == DynamicLoss(temperature=5.2)
    assert torch.equal(annealed(losses), DynamicLoss(temperature=10.0)(losses))


def test_quantiles_may_come_as_a_list():
    assert DynamicLoss(quantiles=[0.0, 0.95]) == DynamicLoss(quantiles=(0.0, 0.95))
    assert DynamicLoss(quantiles=[0.0, 0.95]).quantiles == (0.0, 0.95)
    assert hash(DynamicLoss(quantiles=[0.0, 0.95])) == hash(DynamicLoss(quantiles=(0.0, 0.95)))


@pytest.mark.parametrize(
    "quantiles", [(0.5, 0.5), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1), (0.1, math.nan), (0.1,), (0, 0.5, 1), 0.9, "01"]
)
def test_quantiles_are_two_numbers_in_order(quantiles, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^DynamicLoss.quantiles must be two numbers with 0 <= low < high <= 1"):
        DynamicLoss(quantiles=quantiles)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, True, "1", Anneal(begin=1.0, end=0.0)])
def test_the_temperature_is_positive(temperature, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^DynamicLoss.temperature must be a finite number above 0, got "):
        DynamicLoss(temperature=temperature)


def test_the_strategy_is_one_of_five(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^DynamicLoss.strategy must be one of linupper, .*, got 'mid'"):
        DynamicLoss(strategy="mid")


@pytest.mark.parametrize("quantiles", [None, (0.1, 0.9)])
def test_reads_nothing_back_from_a_device(quantiles):
    with Operations() as operations, mock.patch.object(looking, "_FREE", frozenset()):
        DynamicLoss(quantiles=quantiles)(torch.rand(8))
    assert not operations.names & HOST_READS


def test_is_a_weighting():
    assert isinstance(DynamicLoss(), Weighting)
