from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.pools import Pools, pool_shares, pools
from tests.samplers.presets import build, check_defaults, untyped
from tests.samplers.runs import at, chi_square, generator, go_on_alike
from tests.samplers.waits import as_on_a_device, waits

CAPS = {"max_easy": 0.5, "max_hard": 0.4}


def tried(successes: list[float], attempts: float = 8) -> dict[str, Tensor]:
    return {"success": torch.tensor(successes).double(), "attempts": torch.full((len(successes),), float(attempts))}


def answers(ids: Tensor, step: int) -> dict[str, Tensor]:
    """What four attempts at each row might give; at every other row they all end alike."""
    rows = ids.unsqueeze(1)
    return {"reward": ((rows * 7 + torch.arange(4) * 3 * (rows % 2) + step) % 5 < 2).float()}


def counts(sampler: Pools, count: int = 20_000) -> Tensor:
    return torch.bincount(sampler.draw(count, generator()).ids, minlength=sampler.rows)


def test_the_config_is_complete() -> None:
    check_defaults("pools")
    assert isinstance(build("pools", 4), Pools)


def test_a_rate_decides_the_pool() -> None:
    by_hand = []
    rates = [0.0, 0.25, 0.26, 0.5, 0.75, 0.76, 1.0, math.nan]
    for rate in rates:
        if math.isnan(rate):
            by_hand.append(3)
        elif rate <= 0.25:
            by_hand.append(0)
        elif rate <= 0.75:
            by_hand.append(1)
        else:
            by_hand.append(2)
    assert pools(torch.tensor(rates).double(), (0.25, 0.75)).tolist() == by_hand


def test_draws_follow_the_weight_of_each_row_s_pool() -> None:
    sampler = Pools(7, weights=(0.2, 1.0, 0.4), unseen=0.7)
    sampler.observe(torch.arange(5), tried([0, 2, 4, 7, 8]))
    assert sampler.sizes.tolist() == [2, 1, 2, 2]
    assert abs(chi_square(counts(sampler), torch.tensor([0.2, 0.2, 1.0, 0.4, 0.4, 0.7, 0.7]))) < 4


@pytest.mark.parametrize("settings", [{}, CAPS])
@pytest.mark.parametrize("rows", range(1, 13))
def test_no_pool_ever_drains_for_good(rows: int, settings) -> None:
    """Rows that were hard and then easy are all still drawn, and are normal again as soon as they are solved half."""
    sampler = Pools(rows, **settings)
    for solved in (0, 8):
        for _ in range(20):
            sampler.observe(torch.arange(rows), tried([solved] * rows))
        assert (counts(sampler, 200 * rows) > 0).all()
    for _ in range(60):
        ids = sampler.draw(4, generator(sampler.updates)).ids
        sampler.observe(ids, tried([4] * 4))
    assert sampler.sizes[1] == rows


def test_a_row_goes_where_its_latest_attempts_put_it() -> None:
    sampler = Pools(3)
    for solved, pool in ((8, 2), (4, 1), (0, 0), (6, 1)):
        sampler.observe(at(1), tried([solved]))
        assert sampler.sizes[pool] == 1
        assert sampler.sizes.sum() == 3


@pytest.mark.parametrize(
    ("sizes", "by_hand"),
    [
        ((90, 10, 0, 0), (0.4, 0.6, 0.0, 0.0)),  # hard rows have .642857 by weight
        ((1000, 10, 1000, 10), (0.4, 0.1 / 2, 0.4762, 0.1 / 2)),
        ((0, 10, 200, 0), (0.0, 0.5, 0.5, 0.0)),
        ((10, 10, 10, 10), (0.2 / 2.4, 1 / 2.4, 0.2 / 2.4, 1 / 2.4)),  # below the caps: as by weight
        ((50, 0, 50, 0), (0.5, 0.0, 0.5, 0.0)),  # nothing else: caps do not hold
    ],
)
def test_caps_give_what_they_take_to_normal_and_unseen_rows(sizes, by_hand) -> None:
    weights = torch.tensor([0.2, 1.0, 0.2, 1.0]).double()
    shares = pool_shares(torch.tensor(sizes).double(), weights, 0.4, 0.5)
    assert float(shares.sum()) == pytest.approx(1)
    mass = [size * weight for size, weight in zip(sizes, weights.tolist(), strict=True)]
    if mass[1] + mass[3]:
        hard, easy = min(mass[0] / sum(mass), 0.4), min(mass[2] / sum(mass), 0.5)
        rest = (1 - hard - easy) / (mass[1] + mass[3])
        expected = [hard, mass[1] * rest, easy, mass[3] * rest]
    else:
        expected = [one / sum(mass) for one in mass]
    assert shares.tolist() == pytest.approx(expected)
    assert shares.tolist() == pytest.approx(by_hand, abs=0.013)


def test_caps_hold_in_the_draws() -> None:
    sampler = Pools(101, **CAPS)
    sampler.observe(torch.arange(101), tried([0] * 100 + [4]))
    assert counts(sampler)[100] / 20_000 == pytest.approx(0.6, abs=0.02)
    assert counts(Pools(101)).max() < 300


def test_rows_that_come_twice_are_one_visit_and_padding_says_nothing() -> None:
    sampler = Pools(4)
    nan = math.nan
    reward = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [nan, nan], [1.0, nan]])
    sampler.observe(at(2, 2, -1, 3, 1), {"reward": reward})
    assert sampler.sizes.tolist() == [0, 1, 1, 2]
    assert counts(sampler).sum() == 20_000


@pytest.mark.parametrize("count", [1, 5, 32])
def test_a_chunk_may_be_larger_than_the_dataset(count: int) -> None:
    ids = Pools(5).draw(count, generator()).ids
    assert len(ids) == count
    assert int(ids.max()) < 5


def test_it_goes_on_bit_for_bit_after_a_resume() -> None:
    drawn = go_on_alike(lambda: Pools(23, **CAPS), signals=answers)
    assert len({tuple(rows) for rows in drawn}) > 10


def test_nothing_waits_for_a_device() -> None:
    sampler = Pools(200)
    source, ids = generator(), torch.arange(8)
    signals = {"success": torch.ones(8), "attempts": torch.full((8,), 4.0)}
    for pool in sampler._pools:
        pool._checks = False
    with as_on_a_device(sampler):
        assert waits(sampler, lambda: [sampler.draw(8, source), sampler.learn(ids, signals)]) == []


def test_metrics() -> None:
    sampler = Pools(4)
    sampler.observe(at(0, 1), tried([0, 4]))
    found = {name: float(value) for name, value in sampler.metrics().items()}
    assert [found[name] for name in ("hard", "normal", "easy", "unseen")] == [1, 1, 0, 2]
    assert found["share_hard"] == pytest.approx(0.2 / 3.2)
    assert sum(value for name, value in found.items() if name.startswith("share")) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"thresholds": (0.5,)}, r"Pools.thresholds must be 2 numbers, got \(0.5,\)"),
        ({"thresholds": (0.5, 0.5)}, r"Pools.thresholds must rise, got \(0.5, 0.5\)"),
        ({"thresholds": (0.5, 1.5)}, r"Pools.thresholds must be a finite number in \[0, 1\], got 1.5"),
        ({"weights": (1.0, 1.0)}, "Pools.weights must be 3 numbers"),
        ({"weights": (1.0, 0.0, 1.0)}, r"Pools.weights must be a finite number in \[0.0001, 10000\], got 0.0"),
        ({"unseen": -1}, "Pools.unseen must be a finite number"),
        ({"max_hard": 0}, r"Pools.max_hard must be a finite number in \[0.0001, 1\], got 0"),
        ({"max_easy": 1.1}, "Pools.max_easy must be a finite number"),
    ],
)
def test_what_is_out_of_range_is_an_error(settings, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        untyped(Pools, 5, **settings)
