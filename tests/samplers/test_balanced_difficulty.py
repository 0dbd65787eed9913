from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.balanced_difficulty import BalancedDifficulty, balanced_difficulty
from tests.samplers.presets import build, check_defaults, untyped
from tests.samplers.runs import at, chi_square, generator, go_on_alike
from tests.samplers.waits import waits


def tried(successes: list[float], attempts: float) -> dict[str, Tensor]:
    return {"success": torch.tensor(successes).double(), "attempts": torch.full((len(successes),), float(attempts))}


def answers(ids: Tensor, step: int) -> dict[str, Tensor]:
    """What four attempts at each row might give; at every other row they all end alike."""
    rows = ids.unsqueeze(1)
    return {"reward": ((rows * 7 + torch.arange(4) * 3 * (rows % 2) + step) % 5 < 2).float()}


def counts(sampler: BalancedDifficulty, draws: int, size: int = 1) -> Tensor:
    source = generator()
    return torch.bincount(torch.cat([sampler.draw(size, source).ids for _ in range(draws)]), minlength=sampler.rows)


def test_the_config_is_complete() -> None:
    check_defaults("balanced_difficulty")
    assert isinstance(build("balanced_difficulty", 4), BalancedDifficulty)


def test_weights_row_by_row() -> None:
    rates = [0.0, 0.2, 0.25, 0.5, 0.75, 0.76, 1.0, math.nan]
    by_hand = []
    for rate in rates:
        if math.isnan(rate):
            by_hand.append(1.0)
        else:
            by_hand.append(3.0 if 0.25 <= rate <= 0.75 else 0.5)
    ours = balanced_difficulty(torch.tensor(rates).double(), 0.25, 0.75, inside=3.0, outside=0.5)
    assert ours.tolist() == by_hand


def test_draws_follow_the_weights_and_every_row_can_be_drawn() -> None:
    sampler = BalancedDifficulty(6, inside=2.0, outside=0.5)
    sampler.observe(torch.arange(5), tried([0, 2, 4, 6, 8], 8))
    assert sampler.weights.weights.tolist() == [0.5, 2.0, 2.0, 2.0, 0.5, 1.0]
    assert abs(chi_square(counts(sampler, 8_000), torch.tensor([0.5, 2.0, 2.0, 2.0, 0.5, 1.0]))) < 4


@pytest.mark.parametrize("rows", range(1, 13))
def test_no_row_is_ever_lost(rows: int) -> None:
    """Whatever was said, each row is drawn again in the end, and can come back into the band."""
    sampler = BalancedDifficulty(rows)
    for solved in (0, 8):
        for _ in range(30):
            sampler.observe(torch.arange(rows), tried([solved] * rows, 8))
        assert (counts(sampler, 60, 4 * rows) > 0).all()
    for _ in range(8):
        sampler.observe(torch.arange(rows), tried([4] * rows, 8))
    assert float(sampler.metrics()["in_band"]) == 1


def test_what_is_learnt_changes_the_next_draw() -> None:
    sampler = BalancedDifficulty(100, outside=1e-4)
    sampler.observe(torch.arange(100), tried([4 * (row % 10 == 3) for row in range(100)], 8))
    assert sorted(sampler.draw(10, generator()).ids.tolist()) == list(range(3, 100, 10))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_rate_is_a_running_mean_over_attempts(decay: float) -> None:
    sampler, good, bad = BalancedDifficulty(2, decay=decay), 0.0, 0.0
    for solved in (0, 3, 8, 5):
        good, bad = decay * good + solved, decay * bad + 8 - solved
        sampler.observe(at(1), tried([solved], 8))
    rates = sampler.rates(at(0, 1)).tolist()
    assert math.isnan(rates[0])
    assert rates[1] == pytest.approx(good / (good + bad))


def test_right_or_wrong_makes_a_rate_in_time() -> None:
    sampler = BalancedDifficulty(2, decay=0.8)
    for step in range(10):
        sampler.observe(at(0, 1), {"correct": torch.tensor([1.0, float(step % 2)])})
    assert sampler.weights.weights.tolist() == [pytest.approx(0.1), 1.0]


def test_rows_that_come_twice_are_one_visit_and_padding_says_nothing() -> None:
    sampler = BalancedDifficulty(4, decay=0.0)
    nan = math.nan
    reward = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [nan, nan], [1.0, nan]])
    sampler.observe(at(2, 2, -1, 3, 1), {"reward": reward})
    assert [str(one) for one in sampler.rates(torch.arange(4)).tolist()] == ["nan", "1.0", "0.5", "nan"]
    assert sampler.weights.weights.tolist() == [1.0, pytest.approx(0.1), 1.0, 1.0]
    sampler.observe(at(0), tried([8], 8))
    sampler.observe(at(-1, -1), tried([4, 4], 8))
    assert sampler.weights.weights[0] == pytest.approx(0.1)


@pytest.mark.parametrize("count", [1, 5, 6, 15, 32])
def test_a_chunk_may_be_larger_than_the_dataset(count: int) -> None:
    times = torch.bincount(BalancedDifficulty(5).draw(count, generator()).ids, minlength=5)
    assert int(times.sum()) == count
    assert times.max() - times.min() <= 1


def test_it_goes_on_bit_for_bit_after_a_resume() -> None:
    drawn = go_on_alike(lambda: BalancedDifficulty(23), signals=answers)
    assert len({tuple(rows) for rows in drawn}) > 10


def test_nothing_waits_for_a_device() -> None:
    sampler = BalancedDifficulty(200)
    source, ids = generator(), torch.arange(8)
    signals = {"success": torch.ones(8), "attempts": torch.full((8,), 4.0)}
    assert waits(sampler, lambda: [sampler.draw(8, source), sampler.learn(ids, signals)]) == []


def test_metrics() -> None:
    sampler = BalancedDifficulty(4, outside=0.5)
    sampler.observe(at(0, 1), tried([0, 1], 2))
    found = {name: float(value) for name, value in sampler.metrics().items()}
    assert found == {"seen": 0.5, "in_band": 0.5, "effective_share": pytest.approx(3.5**2 / 3.25 / 4)}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"low": 0.8}, r"BalancedDifficulty.low must be at most BalancedDifficulty.high \(0.75\), got 0.8"),
        ({"high": 1.5}, r"BalancedDifficulty.high must be a finite number in \[0, 1\], got 1.5"),
        ({"outside": 0.0}, r"BalancedDifficulty.outside must be a finite number in \[0.0001, 10000\], got 0.0"),
        ({"inside": math.inf}, "BalancedDifficulty.inside must be a finite number"),
        ({"decay": 2}, r"BalancedDifficulty.decay must be a finite number in \[0, 1\], got 2"),
    ],
)
def test_what_is_out_of_range_is_an_error(settings, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        untyped(BalancedDifficulty, 5, **settings)
