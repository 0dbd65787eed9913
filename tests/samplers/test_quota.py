from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.quota import Quota, quota
from tests.samplers.presets import build, check_defaults, untyped
from tests.samplers.runs import at, batches, bound, chi_square, generator, go_on_alike, saved, train
from tests.samplers.waits import waits

RATES = [(row % 10 + 1) / 10 for row in range(23)]


def tried(successes: list[float], attempts: float | list[float]) -> dict[str, Tensor]:
    attempts = attempts if isinstance(attempts, list) else [attempts] * len(successes)
    return {"success": torch.tensor(successes).double(), "attempts": torch.tensor(attempts).double()}


def answers(ids: Tensor, step: int) -> dict[str, Tensor]:
    """What four attempts at each row might give."""
    return {"reward": ((ids.unsqueeze(1) * 7 + torch.arange(4) * 3 + step) % 5 < 2).float()}


def test_the_config_is_complete() -> None:
    check_defaults("quota", needed=["pass_rates"])
    assert build("quota", 2, [0.5, 1.0]).targets.tolist() == [4, 4]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(1, 50))
def test_targets_row_by_row(solved: list[int], k: int) -> None:
    rates = [one / 20 for one in solved]
    uniform, by_difficulty = (
        quota(torch.tensor(rates).double(), k, mode).tolist() for mode in ("uniform", "prop2diff")
    )
    assert uniform == [k] * len(rates)
    hardest = max(20 - one for one in solved)
    for one, target in zip(solved, by_difficulty, strict=True):
        exact = -(-k * (20 - one) // hardest) if hardest else k  # the ceiling, in whole numbers
        assert target == max(1, exact)
    assert max(by_difficulty) == k
    ordered = [target for _, target in sorted(zip(solved, by_difficulty, strict=True), reverse=True)]
    assert sorted(ordered) == [target for _, target in sorted(zip(solved, by_difficulty, strict=True), reverse=True)]
    assert min(by_difficulty) >= 1


@pytest.mark.parametrize("mode", ["uniform", "prop2diff"])
def test_where_all_rows_are_solved_targets_are_alike(mode: str) -> None:
    assert quota(torch.ones(5), 7, mode).tolist() == [7] * 5


def test_draws_follow_the_attempts_that_rows_need() -> None:
    """With targets of 40: 40 / p attempts, the figures of the paper's own cost, as far as the cap allows."""
    rates = [0.9, 0.5, 0.1, 0.02, 0.0]
    sampler = Quota(5, rates, k=40, max_trials=3000)
    needed = [40 / 0.9, 80.0, 400.0, 2000.0, 3000.0]
    assert sampler._draw.weights[:5].tolist() == pytest.approx(needed)
    drawn = torch.bincount(sampler.draw(20_000, generator()).ids, minlength=5)
    assert abs(chi_square(drawn, torch.tensor(needed))) < 4


def test_what_is_learnt_changes_the_next_draw() -> None:
    sampler = Quota(2, [0.5, 0.5], k=4)
    sampler.observe(at(0), tried([3], 4))
    rate = (0.5 + 3) / (1 + 4)
    assert sampler._draw.weights[:2].tolist() == pytest.approx([1 / rate, 8.0])


@pytest.mark.parametrize(("solved", "attempts"), [(4, 4), (5, 8), (4.5, 8), (0, 10), (3.9999999, 4)])
def test_a_row_that_is_done_is_never_drawn_while_others_are_left(solved: float, attempts: int) -> None:
    sampler = Quota(4, [0.5] * 4, k=4, max_trials=10)
    sampler.observe(at(2), tried([solved], attempts))
    assert (sampler._draw.weights == 0).tolist() == [False, False, True, False, False]
    assert 2 not in sampler.draw(50_000, generator()).ids.tolist()
    assert float(sampler.metrics()["retired"]) == 0.25
    assert float(sampler.metrics()["capped"]) == (0.25 if solved == 0 else 0)


def test_when_all_are_done_rows_are_drawn_uniformly() -> None:
    sampler = Quota(6, [0.5] * 6, k=1)
    sampler.observe(torch.arange(6), tried([1] * 6, 1))
    drawn = torch.bincount(sampler.draw(20_000, generator()).ids, minlength=6)
    assert len(drawn) == 6
    assert abs(chi_square(drawn, torch.ones(6))) < 4
    assert float(sampler.metrics()["retired"]) == 1
    assert len(list(sampler)) == 6


def test_a_dataset_that_is_never_solved_ends_in_bounded_time() -> None:
    sampler = Quota(5, [0.0] * 5, k=2, max_trials=8)
    stream = batches(bound(sampler, 4), 4)
    train(sampler, stream, range(40), lambda ids, _: tried([0] * len(ids), 4))
    assert float(sampler.metrics()["capped"]) == 1


@pytest.mark.parametrize("mode", ["uniform", "prop2diff"])
def test_rows_reach_their_targets_whatever_their_difficulty(mode: str) -> None:
    source, rates = generator(), [0.1, 0.3, 0.5, 0.9] * 5
    sampler, truth = Quota(20, rates, mode=mode, k=6, max_trials=400), torch.tensor(rates)
    shares = []
    for _ in range(400):
        ids = sampler.draw(8, source).ids
        sampler.observe(ids, {"reward": (torch.rand(8, 1, generator=source) < truth[ids].unsqueeze(1)).float()})
        shares.append(float(sampler.metrics()["retired"]))
        if shares[-1] == 1:
            break
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert (sampler.accepted >= sampler.targets).all()
    hard, easy = sampler.trials[::4].sum(), sampler.trials[3::4].sum()
    assert hard > 3 * easy


def test_repeats_are_counted_each_and_padding_says_nothing() -> None:
    sampler = Quota(4, [0.5] * 4, k=100)
    nan = math.nan
    reward = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [nan, nan], [0.5, nan]])
    sampler.observe(at(2, 2, -1, 3, 0), {"reward": reward})
    assert sampler.accepted.tolist() == [0.5, 0, 3, 0]
    assert sampler.trials.tolist() == [1, 0, 4, 0]
    assert set(sampler.draw(1000, generator()).ids.tolist()) == {0, 1, 2, 3}


def test_counts_are_the_same_after_a_resume() -> None:
    first = Quota(23, RATES)
    drawn = train(first, batches(bound(first, 4), 4), range(20), answers)
    second = Quota(23, RATES)
    second.load_state_dict(saved(first))
    assert second.trials.tolist() == first.trials.tolist()
    assert second.trials.sum() == 4 * sum(len(rows) for rows in drawn)
    assert second.accepted.tolist() == first.accepted.tolist()


@pytest.mark.parametrize("mode", ["uniform", "prop2diff"])
def test_it_goes_on_bit_for_bit_after_a_resume(mode: str) -> None:
    drawn = go_on_alike(lambda: Quota(23, RATES, mode=mode), signals=answers)
    assert len({tuple(rows) for rows in drawn}) > 10


def test_nothing_waits_for_a_device() -> None:
    sampler = Quota(23, RATES)
    source, ids = generator(), torch.arange(8)
    signals = {"success": torch.ones(8), "attempts": torch.full((8,), 4.0)}
    assert waits(sampler, lambda: [sampler.draw(8, source), sampler.learn(ids, signals)]) == []


@pytest.mark.parametrize("count", [1, 5, 32])
def test_a_chunk_may_be_larger_than_the_dataset(count: int) -> None:
    ids = Quota(5, [0.5] * 5).draw(count, generator()).ids
    assert len(ids) == count
    assert int(ids.max()) < 5


def test_metrics() -> None:
    sampler = Quota(2, [0.0, 0.5], mode="prop2diff", k=4)
    sampler.observe(at(0, 1), tried([1, 9], 16))
    assert {name: float(value) for name, value in sampler.metrics().items()} == {
        "retired": 0.5,
        "capped": 0,
        "accepted": 0.5,
    }


@pytest.mark.parametrize(
    ("rates", "settings", "told"),
    [
        ([0.5, 0.5], {}, r"Quota.pass_rates must hold one rate for each of 3 rows, got \(2,\)"),
        ([0.5, 1.5, 0.5], {}, r"Quota.pass_rates must be in \[0, 1\], got 1.5"),
        ([0.5, math.nan, 0.5], {}, r"Quota.pass_rates must be in \[0, 1\], got nan"),
        ([0.5] * 3, {"mode": "vrt"}, "Quota.mode must be one of uniform, prop2diff, got 'vrt'"),
        ([0.5] * 3, {"k": 0}, "Quota.k must be a whole number, at least 1, got 0"),
        ([0.5] * 3, {"max_trials": 2.5}, "Quota.max_trials must be a whole number, at least 1, got 2.5"),
    ],
)
def test_what_is_wrong_is_an_error(rates, settings, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        untyped(Quota, 3, rates, **settings)
