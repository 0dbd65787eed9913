from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.beta_posterior import BetaPosterior, beta_posterior, usefulness
from lightning_select.samplers.picks import best, in_proportion, some
from lightning_select.samplers.progress import Progress
from lightning_select.schedule import Anneal
from tests.samplers.presets import build, check_defaults, preset, untyped
from tests.samplers.runs import at, chi_square, generator, go_on_alike, saved
from tests.samplers.waits import waits

PRESETS = ("vade", "mopps", "spo")


def tried(successes: list[float], attempts: float | list[float]) -> dict[str, Tensor]:
    attempts = attempts if isinstance(attempts, list) else [attempts] * len(successes)
    return {"success": torch.tensor(successes).double(), "attempts": torch.tensor(attempts).double()}


def answers(ids: Tensor, step: int) -> dict[str, Tensor]:
    """What four attempts at each row might give."""
    return {"reward": ((ids.unsqueeze(1) * 7 + torch.arange(4) * 3 + step) % 5 < 2).float()}


def counts(sampler: BetaPosterior, draws: int, size: int) -> Tensor:
    source = generator()
    ids = torch.cat([sampler.draw(size, source).ids for _ in range(draws)])
    return torch.bincount(ids, minlength=sampler.rows)


def believes(sampler: BetaPosterior, successes: list[float], failures: list[float]) -> BetaPosterior:
    sampler.history.successes.copy_(torch.tensor(successes, dtype=torch.float64))
    sampler.history.failures.copy_(torch.tensor(failures, dtype=torch.float64))
    return sampler


def test_the_configs_are_complete() -> None:
    check_defaults("beta_posterior")
    base = preset("beta_posterior")
    assert preset("vade") == base
    assert {key for key, value in preset("mopps").items() if value != base[key]} == {"score", "keep", "forget", "pool"}
    assert {name: type(build(name, 5)) for name in PRESETS} == dict.fromkeys(PRESETS, BetaPosterior)


def test_the_three_rows_of_the_figure_of_vade() -> None:
    """The figure prints 1.998 for the last of the numbers; the rule gives a tenth of that."""
    sampler = believes(build("vade", 3), [0.1, 2.7, 9.0], [8.4, 5.3, 0.2])
    sampler.observe(at(0, 1), tried([1, 4], 8))
    successes, failures = sampler.history.beta(torch.arange(3), sampler.updates)
    expected = torch.tensor([[1.02, 4.54, 8.991], [8.68, 5.06, 0.1998]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([successes, failures]), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(sampler.rates(at(0)), torch.tensor([2.02 / 11.7], dtype=torch.float64))


@pytest.mark.parametrize(("keep", "forget", "initial"), [(0.2, 0.999, 0.0), (0.9, 0.97, 4.0), (0.0, 0.5, 1.0)])
def test_counts_that_fade_when_read_are_those_that_fade_in_every_step(keep, forget, initial) -> None:
    rows, chance = 12, random.Random(0)
    sampler = BetaPosterior(rows, keep=keep, forget=forget, initial=initial)
    eager = [[initial, initial] for _ in range(rows)]
    for _ in range(150):
        visited = [chance.randrange(rows) for _ in range(chance.randrange(1, 6))]
        solved = [chance.randrange(5) for _ in visited]
        for row in range(rows):
            rate = keep if row in visited else forget
            eager[row] = [count * rate for count in eager[row]]
        for row, good in zip(visited, solved, strict=True):
            eager[row][0] += good
            eager[row][1] += 4 - good
        sampler.observe(torch.tensor(visited), tried(solved, 4))
        found = torch.stack(sampler.history.beta(torch.arange(rows), sampler.updates), dim=1)
        torch.testing.assert_close(found, torch.tensor(eager, dtype=torch.float64), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("solved", [0, 1])
def test_one_attempt_moves_the_mean(name: str, solved: int) -> None:
    """In the released code of MoPPS the counts of a row tried once are overwritten by 8 and 8."""
    sampler = build(name, 2)
    before = sampler.rates(at(0))
    sampler.observe(at(0), tried([solved], 1))
    assert (sampler.rates(at(0)) > before) == bool(solved)
    assert before == 0.5
    assert sampler.rates(at(1)) == 0.5


def test_mopps_returns_to_its_prior_as_published() -> None:
    alpha, beta, sampler = 1.0, 1.0, build("mopps", 1)
    for solved in (3, 0, 8, 5):
        alpha, beta = 0.5 * alpha + 0.5 * 1 + solved, 0.5 * beta + 0.5 * 1 + 8 - solved
        sampler.observe(at(0), tried([solved], 8))
        torch.testing.assert_close(float(sampler.rates(at(0))), alpha / (alpha + beta))


def test_spo_starts_worth_eight_attempts_and_fades() -> None:
    alpha, beta, sampler = 4.0, 4.0, build("spo", 1)
    for solved in (1, 0, 0, 1, 1):
        baseline = float(sampler.rates(at(0)))
        torch.testing.assert_close(baseline, alpha / (alpha + beta))
        alpha, beta = 0.9 * alpha + solved, 0.9 * beta + 1 - solved
        sampler.observe(at(0), tried([solved], 1))


@pytest.mark.parametrize(
    ("score", "by_hand"),
    [
        ("skewed", lambda p: p * (1 - p) ** 2),
        ("variance", lambda p: p * (1 - p)),
        ("near", lambda p: -((p - 0.4) ** 2)),
        ("deviation", lambda p: math.sqrt(p * (1 - p)) + 0.1),
        ("band", lambda p: -max(0.35 - p, p - 0.6, 0)),
    ],
)
def test_scores_are_those_of_the_papers(score, by_hand) -> None:
    rates = torch.linspace(0, 1, 31, dtype=torch.float64)
    ours = usefulness(rates, score, target=0.4, floor=0.1, low=0.35, high=0.6)
    torch.testing.assert_close(ours, torch.tensor([by_hand(p) for p in rates.tolist()]).double())


@pytest.mark.parametrize(("score", "where", "peak"), [("skewed", 1 / 3, 4 / 27), ("variance", 1 / 2, 1 / 4)])
def test_scores_are_largest_where_the_papers_say(score, where, peak) -> None:
    rates = torch.linspace(0, 1, 6001, dtype=torch.float64)
    scores = usefulness(rates, score)
    assert float(rates[scores.argmax()]) == pytest.approx(where, abs=1e-9)
    assert float(scores.max()) == pytest.approx(peak, abs=1e-9)


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (2.5, 7.0), (0.3, 0.4)])
def test_thompson_draws_have_the_moments_of_beta(first: float, second: float) -> None:
    shape = torch.full((40_000,), 1.0, dtype=torch.float64)
    rates = beta_posterior(shape * first, shape * second, generator())
    total = first + second
    variance = first * second / (total**2 * (total + 1))
    assert float(rates.mean()) == pytest.approx(first / total, abs=4 * math.sqrt(variance / 40_000))
    assert float(rates.var()) == pytest.approx(variance, rel=0.05)
    torch.testing.assert_close(rates, beta_posterior(shape * first, shape * second, generator()), rtol=0, atol=0)
    assert beta_posterior(torch.zeros(1), torch.zeros(1)).tolist() == [0.5]


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    BetaPosterior(20).draw(3, generator())
    assert torch.equal(before, torch.get_rng_state())


def test_with_the_mean_the_best_are_drawn() -> None:
    solved = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    sampler = BetaPosterior(9, draw="mean", keep=1.0)
    sampler.observe(torch.arange(9), tried(solved, 8))
    ranked = sorted(range(9), key=lambda row: -((solved[row] + 1) / 10) * (1 - (solved[row] + 1) / 10) ** 2)
    assert sorted(sampler.draw(4, generator()).ids.tolist()) == sorted(ranked[:4])


def test_thompson_draws_a_row_as_often_as_its_rate_wins() -> None:
    sampler = believes(BetaPosterior(4), [0.0, 3.0, 1.0, 6.0], [0.0, 4.0, 6.0, 1.0])
    wins, chance = [0] * 4, random.Random(1)
    for _ in range(20_000):
        rates = [chance.betavariate(a + 1, b + 1) for a, b in [(0, 0), (3, 4), (1, 6), (6, 1)]]
        scores = [p * (1 - p) ** 2 for p in rates]
        wins[scores.index(max(scores))] += 1
    assert abs(chi_square(counts(sampler, 3_000, 1), torch.tensor(wins))) < 5


@pytest.mark.parametrize("settings", [{"draw": "mean"}, {"score": "band", "low": 0.0, "high": 1.0}, {"pool": 2}])
def test_equal_scores_are_put_in_random_order(settings) -> None:
    drawn = counts(BetaPosterior(7, **settings), 2_000, 3)
    assert abs(chi_square(drawn, torch.ones(7))) < 4


def test_the_best_keep_their_place_beside_ties() -> None:
    scores = torch.tensor([0.5, 0.9, 0.5, 0.1, 0.5]).double()
    seen = set()
    for seed in range(40):
        picked = best(scores, 3, generator(seed)).tolist()
        assert 1 in picked
        assert 3 not in picked
        assert len(set(picked)) == 3
        seen |= set(picked)
    assert seen == {0, 1, 2, 4}


def test_in_proportion_means_one_after_the_other_from_those_left() -> None:
    scores = [1.0, 3.0, 2.0, 0.0]
    pairs, source = torch.zeros(4, 4), generator()
    for _ in range(6_000):
        first, second = in_proportion(torch.tensor(scores).double(), 2, source).tolist()
        pairs[first, second] += 1
    chances = torch.zeros(4, 4)
    for i in range(4):
        for j in range(4):
            chances[i, j] = 0 if i == j else scores[i] / 6 * scores[j] / (6 - scores[i])
    assert abs(chi_square(pairs.flatten(), chances.flatten())) < 4
    assert in_proportion(torch.tensor(scores).double(), 4, source)[-1] == 3


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (7, 7), (23, 4), (100, 3), (64, 63)])
def test_candidates_are_any_different_rows(rows: int, count: int) -> None:
    source = generator()
    seen = torch.zeros(rows)
    for _ in range(600):
        ids = some(rows, count, source)
        assert len(set(ids.tolist())) == count
        seen[ids] += 1
    if count < rows:
        # Rows that exclude each other vary less than independent ones.
        assert chi_square(seen, torch.ones(rows)) < 4


def test_a_pool_bounds_what_the_best_are_chosen_from() -> None:
    """With as many candidates as rows are drawn the score has no say; with more it has."""
    solved = [4] * 5 + [0] * 45
    drawn = {}
    for pool in (1, 4, None):
        sampler = BetaPosterior(50, pool=pool, draw="mean", keep=1.0)
        sampler.observe(torch.arange(50), tried(solved, 8))
        drawn[pool] = float(counts(sampler, 200, 4)[:5].sum()) / 800
    assert drawn[1] == pytest.approx(0.1, abs=0.04)
    assert 0.2 < drawn[4] < 0.6
    assert drawn[None] == 1.0


def test_what_is_learnt_changes_the_next_draw() -> None:
    sampler = BetaPosterior(100, draw="mean", keep=1.0)
    sampler.observe(torch.arange(100), tried([4 * (row % 10 == 3) for row in range(100)], 8))
    assert sorted(sampler.draw(10, generator()).ids.tolist()) == list(range(3, 100, 10))
    for _ in range(6):
        sampler.observe(at(*range(3, 100, 10)), tried([8] * 10, 8))
    assert not set(sampler.draw(10, generator()).ids.tolist()) & set(range(3, 100, 10))


def test_rows_that_come_twice_are_one_visit_and_padding_says_nothing() -> None:
    sampler, plain = BetaPosterior(4, keep=0.5), BetaPosterior(4, keep=0.5)
    reward = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [float("nan")] * 2, [1.0, float("nan")]])
    sampler.observe(at(2, 2, -1, 0, 1), {"reward": reward})
    plain.observe(at(1, 2), tried([1, 3], [1, 4]))
    for mine, other in zip(
        sampler.history.beta(torch.arange(4), 1), plain.history.beta(torch.arange(4), 1), strict=True
    ):
        torch.testing.assert_close(mine, other)
    assert sampler.history.seen.tolist() == [False, True, True, False]


def test_a_row_whose_attempts_failed_to_run_does_not_fade() -> None:
    sampler = believes(BetaPosterior(2, keep=0.0, forget=1.0), [3.0, 3.0], [1.0, 1.0])
    sampler.observe(at(0, 1), tried([0, 1], [0, 1]))
    assert [one.tolist() for one in sampler.history.beta(at(0, 1), 1)] == [[3.0, 1.0], [1.0, 0.0]]


def test_rewards_are_counted_by_fractions_and_must_be_shares() -> None:
    sampler = BetaPosterior(2)
    sampler.observe(at(0), {"reward": torch.tensor([[0.25, 0.5]])})
    assert [float(one) for one in sampler.history.beta(at(0), 1)] == [0.75, 1.25]
    with pytest.raises(ArgumentError, match=r"BetaPosterior.reward must be in \[0, 1\] .* got 3"):
        sampler.observe(at(0), {"reward": torch.tensor([[3.0, 0.5]])})
    with pytest.raises(ArgumentError, match="BetaPosterior.observe must get the signals success, got loss"):
        sampler.observe(at(0), {"loss": torch.ones(1)})


def test_without_fading_the_mean_becomes_the_rate_and_with_it_counts_stay_bounded() -> None:
    plain, faded, source = BetaPosterior(1, keep=1.0, forget=1.0), BetaPosterior(1), generator()
    for _ in range(300):
        solved = [float((torch.rand(8, generator=source) < 0.3).sum())]
        plain.observe(at(0), tried(solved, 8))
        faded.observe(at(0), tried(solved, 8))
        assert float(sum(faded.history.beta(at(0), faded.updates))) <= 8 / (1 - 0.2) + 1e-9
    assert float(plain.rates(at(0))) == pytest.approx(0.3, abs=0.04)


def test_a_row_left_alone_is_as_unknown_as_a_new_one_in_the_end() -> None:
    sampler = BetaPosterior(2, forget=0.9)
    sampler.observe(at(0), tried([8], 8))
    for _ in range(300):
        sampler.observe(at(1), tried([4], 8))
    assert float(sampler.rates(at(0))) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("settings", [{}, {"select": "proportional"}, {"pool": 2}, {"draw": "mean"}])
@pytest.mark.parametrize("count", [1, 5, 6, 12, 32])
def test_a_chunk_may_be_larger_than_the_dataset(settings, count: int) -> None:
    ids = BetaPosterior(5, **settings).draw(count, generator()).ids
    assert ids.dtype == torch.int64
    times = torch.bincount(ids, minlength=5)
    assert len(ids) == count
    assert times.max() - times.min() <= 1


@pytest.mark.parametrize("name", PRESETS)
def test_it_goes_on_bit_for_bit_after_a_resume(name: str) -> None:
    drawn = go_on_alike(lambda: build(name, 23, num_samples=23), signals=answers)
    assert len({tuple(rows) for rows in drawn}) > 10


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_waits_for_a_device(name: str) -> None:
    sampler = build(name, 200)
    source, ids = generator(), torch.arange(8)
    sampler.observe(ids, answers(ids, 0))
    signals = {"success": torch.ones(8), "attempts": torch.full((8,), 4.0)}
    assert waits(sampler, lambda: [sampler.draw(8, source), sampler.learn(ids, signals)]) == []


def test_more_rows_are_informative_than_in_uniform_draws() -> None:
    """Of rows that are solved at fixed rates, most of them hopeless or easy, in groups of eight."""
    source = generator()
    truth = torch.rand(300, generator=source, dtype=torch.float64) ** 8
    truth = torch.where(torch.arange(300) % 2 == 0, truth, 1 - truth)
    share = {}
    for name in ("uniform", *PRESETS):
        sampler = build("vade" if name == "uniform" else name, 300)
        mixed = []
        for step in range(150):
            ids = torch.randperm(300, generator=source)[:16] if name == "uniform" else sampler.draw(16, source).ids
            solved = (torch.rand(16, 8, generator=source) < truth[ids].unsqueeze(1)).double()
            sampler.observe(ids, {"reward": solved})
            if step >= 50:
                mixed.append(float(sampler.metrics()["informative"]))
        share[name] = sum(mixed) / len(mixed)
    assert min(share["vade"], share["mopps"]) > share["uniform"] + 0.1
    assert share["spo"] > share["uniform"] + 0.02


def test_values_may_move_while_training_goes_on() -> None:
    sampler = BetaPosterior(3, score="near", target=Anneal(0.2, 0.8), keep=Anneal(1.0, 0.0), draw="mean")
    believes(sampler, [20.0, 50.0, 80.0], [80.0, 50.0, 20.0])
    sampler.progress = Progress(step=0, total_steps=10)
    assert sampler.draw(1, generator()).ids.tolist() == [0]
    sampler.progress = Progress(step=10, total_steps=10)
    assert sampler.draw(1, generator()).ids.tolist() == [2]
    sampler.observe(at(1), tried([1], 1))
    assert [float(one) for one in sampler.history.beta(at(1), 1)] == [1.0, 0.0]


def test_metrics() -> None:
    sampler = BetaPosterior(4, keep=1.0)
    sampler.observe(at(0, 1), tried([1, 2], 2))
    found = {name: float(value) for name, value in sampler.metrics().items()}
    rates = [0.5, 0.75, 0.5, 0.5]
    assert found["seen"] == 0.5
    assert found["informative"] == 0.5
    assert found["rate"] == pytest.approx(sum(rates) / 4, abs=1e-3)
    assert found["spread"] == pytest.approx(sum(4 * p * (1 - p) for p in rates) / 4, abs=1e-3)
    sampler.observe(
        at(0, -1, -1, 1, 2), {"reward": torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])}
    )
    assert float(sampler.metrics()["informative"]) == pytest.approx(1 / 3)
    assert "mixed" in saved(sampler)["learnt"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"score": "best"}, "BetaPosterior.score must be one of skewed, variance, .*, got 'best'"),
        ({"draw": "ucb"}, "BetaPosterior.draw must be one of thompson, mean, got 'ucb'"),
        ({"select": "all"}, "BetaPosterior.select must be one of top_k, proportional, got 'all'"),
        ({"select": "proportional", "score": "near"}, "must be top_k with the score near"),
        ({"target": 2.0}, r"BetaPosterior.target must be a finite number in \[0, 1\], got 2.0"),
        ({"low": 0.8}, r"BetaPosterior.high must be a finite number in \[0.8, 1\], got 0.7"),
        ({"floor": -1.0}, "BetaPosterior.floor must be a finite number at least 0, got -1.0"),
        ({"keep": 1.5}, r"BetaPosterior.keep must be a finite number in \[0, 1\], got 1.5"),
        ({"forget": -0.1}, "BetaPosterior.forget must be a finite number"),
        ({"prior": (1.0,)}, "BetaPosterior.prior must be 2 numbers"),
        ({"prior": (0.0, 1.0)}, "BetaPosterior.prior must be positive, unless draw is mean"),
        ({"prior": (0.0, 1.0), "draw": "mean"}, "BetaPosterior.prior must be positive, unless draw is mean"),
        ({"initial": math.nan}, "BetaPosterior.initial must be a finite number at least 0, got nan"),
        ({"pool": 0}, "BetaPosterior.pool must be a whole number, at least 1, got 0"),
    ],
)
def test_what_is_out_of_range_is_an_error(settings, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        untyped(BetaPosterior, 5, **settings)
