from __future__ import annotations

import itertools

import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.samplers.loss_proportional import LossProportional, importance, loss_proportional
from lightning_select.samplers.progress import Progress
from lightning_select.schedule import Anneal
from tests.samplers.runs import at, chi_square, generator, go_on_alike, saved
from tests.samplers.waits import waits


def learnt(losses: list[float], **settings) -> LossProportional:
    """A sampler that has seen the first rows."""
    sampler = LossProportional(settings.pop("rows", len(losses)), **settings)
    sampler.observe(torch.arange(len(losses)), {"loss": torch.tensor(losses)})
    return sampler


def counts(sampler: LossProportional, draws: int, size: int = 1000, seed: int = 0) -> torch.Tensor:
    source = generator(seed)
    ids = torch.cat([sampler.draw(size, source).ids for _ in range(draws)])
    return torch.bincount(ids, minlength=sampler.rows)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_the_chances_are_those_of_the_paper(alpha: float, floor: float) -> None:
    losses = [0.3, 2.0, 1.1, 0.7]
    ours = loss_proportional(torch.tensor(losses), alpha=alpha, floor=floor)
    total = 0.0
    for one in losses:
        total += (one + floor) ** alpha
    theirs = [(one + floor) ** alpha / total for one in losses]
    torch.testing.assert_close(ours / ours.sum(), torch.tensor(theirs))
    drawn = counts(learnt(losses, alpha=alpha, floor=floor), 40)
    assert abs(chi_square(drawn, torch.tensor(theirs))) < 4


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_weights_are_those_of_the_paper_with_a_mean_of_one(beta: float) -> None:
    sampler = learnt([1.0, 4.0, 2.0, 3.0], beta=beta)
    drawn = sampler.draw(64, generator())
    theirs = []
    for row in drawn.ids.tolist():
        chance = [1.0, 4.0, 2.0, 3.0][row] / 10
        theirs.append((1 / 4 * 1 / chance) ** beta)
    theirs = [one / (sum(theirs) / 64) for one in theirs]
    torch.testing.assert_close(drawn.weights, torch.tensor(theirs, dtype=torch.float64), rtol=1e-6, atol=0)
    ones = importance(torch.full((5,), 0.1), 10, beta=1.0)
    torch.testing.assert_close(ones, torch.ones(5))


def test_without_beta_there_are_no_weights() -> None:
    assert learnt([1.0, 2.0]).draw(4, generator()).weights is None


def test_the_weights_make_the_mean_of_the_drawn_losses_that_of_all_rows() -> None:
    losses = torch.tensor([0.5, 4.0, 2.0, 3.0, 0.1])
    sampler = learnt(losses.tolist(), beta=1.0)
    drawn = sampler.draw(100_000, generator())
    assert abs(float((losses[drawn.ids] * drawn.weights).mean()) - float(losses.mean())) < 0.02


@pytest.mark.parametrize("replacement", [True, False])
def test_a_row_without_a_loss_has_the_largest_so_far(replacement: bool) -> None:
    """Rows 0 to 2 were seen; 3 and 4 not. The largest mean was 4, even if that row is better now."""
    sampler = learnt([1.0, 4.0, 2.0], rows=5, decay=0.0, replacement=replacement)
    sampler.observe(at(1), {"loss": torch.tensor([3.0])})
    drawn = counts(sampler, 4_000, size=1) if not replacement else counts(sampler, 40)
    assert abs(chi_square(drawn, torch.tensor([1.0, 3.0, 2.0, 4.0, 4.0]))) < 4
    assert sampler.draw(1, generator()).weights is None


def test_without_replacement_rows_come_one_after_the_other_from_those_left() -> None:
    """All ordered pairs, over both pools, by the formula of successive draws."""
    sampler = learnt([1.0, 4.0, 2.0], rows=5, replacement=False)
    chances = torch.tensor([1.0, 4.0, 2.0, 4.0, 4.0], dtype=torch.float64) / 15
    pairs = list(itertools.permutations(range(5), 2))
    expected = torch.tensor([float(chances[a] * chances[b] / (1 - chances[a])) for a, b in pairs])
    source = generator(1)
    found = torch.zeros(len(pairs))
    for _ in range(4_000):
        found[pairs.index(tuple(sampler.draw(2, source).ids.tolist()))] += 1
    assert abs(chi_square(found, expected)) < 4


@pytest.mark.parametrize("seen", [0, 1, 40, 99, 100])
def test_without_replacement_each_row_comes_once_before_any_comes_again(seen: int) -> None:
    sampler = learnt([float(one % 3) for one in range(seen)], rows=100, replacement=False, beta=0.5)
    for seed in range(20):
        drawn = sampler.draw(250, generator(seed))
        ids = drawn.ids.tolist()
        assert sorted(ids[:100]) == sorted(ids[100:200]) == list(range(100))
        assert len(set(ids[200:])) == 50
        assert drawn.weights.isfinite().all()


def test_without_replacement_no_row_comes_twice_next_to_a_huge_loss() -> None:
    sampler = learnt([0.0] * 10 + [1e20], rows=20, replacement=False)
    for seed in range(20):
        assert sorted(sampler.draw(20, generator(seed)).ids.tolist()) == list(range(20))


def test_rows_without_loss_stay_away_where_there_was_a_huge_loss() -> None:
    sampler = learnt([1e30] * 200, decay=0.0)
    sampler.observe(torch.arange(200), {"loss": torch.tensor([0.0] * 199 + [1e-3])})
    assert set(sampler.draw(1000, generator()).ids.tolist()) == {199}


def test_without_replacement_rows_of_no_loss_come_last() -> None:
    sampler = learnt([0.0] * 10 + [1.0] * 10, rows=30, replacement=False)
    ids = sampler.draw(30, generator()).ids.tolist()
    assert set(ids[20:]) == set(range(10))


@pytest.mark.parametrize("replacement", [True, False])
def test_a_row_whose_loss_went_to_zero_is_not_drawn(replacement: bool) -> None:
    sampler = learnt([0.0, 1.0, 0.0, 1e-4] * 500, decay=0.5, replacement=replacement)
    ids = torch.cat([sampler.draw(100, generator(seed)).ids for seed in range(100)])
    assert set((ids % 4).tolist()) <= {1, 3}
    assert set((learnt([0.0, 1.0], floor=0.5).draw(100, generator()).ids).tolist()) == {0, 1}


def test_where_all_losses_are_zero_all_rows_are_drawn_alike() -> None:
    assert abs(chi_square(counts(learnt([0.0] * 20), 20), torch.ones(20))) < 4
    assert abs(chi_square(counts(learnt([0.0] * 10, rows=20), 20), torch.ones(20))) < 4
    weights = learnt([0.0] * 20, beta=1.0).draw(10, generator()).weights
    torch.testing.assert_close(weights, torch.ones(10, dtype=torch.float64))


def test_at_the_start_all_rows_are_drawn_alike() -> None:
    sampler = LossProportional(20, beta=1.0)
    assert abs(chi_square(counts(sampler, 20), torch.ones(20))) < 4
    torch.testing.assert_close(sampler.draw(8, generator()).weights, torch.ones(8, dtype=torch.float64))


def test_what_was_learnt_acts_on_the_next_draw() -> None:
    sampler = learnt([1.0] * 50, decay=0.0)
    sampler.observe(torch.arange(49), {"loss": torch.zeros(49)})
    assert sampler.draw(100, generator()).ids.tolist() == [49] * 100


def test_twins_padding_and_losses_that_are_not_finite() -> None:
    sampler = LossProportional(4, decay=0.5)
    nan, inf = float("nan"), float("inf")
    sampler.observe(at(0, 0, 1, 2, -1), {"loss": torch.tensor([1.0, 3.0, nan, inf, 99.0])})
    assert sampler.metrics()["seen"] == 0.25
    assert abs(chi_square(counts(sampler, 10), torch.tensor([2.0, 2.0, 2.0, 2.0]))) < 4  # the others as the largest
    sampler.observe(at(0, 1, 2, 3), {"loss": torch.tensor([nan, 1.0, 1.0, 4.0])})
    assert abs(chi_square(counts(sampler, 10), torch.tensor([2.0, 1.0, 1.0, 4.0]))) < 4
    sampler.observe(at(), {"loss": torch.zeros(0)})
    sampler.observe(at(-1), {"loss": torch.ones(1)})
    assert abs(chi_square(counts(sampler, 10), torch.tensor([2.0, 1.0, 1.0, 4.0]))) < 4


def test_a_negative_loss_counts_as_zero_and_is_told() -> None:
    sampler = learnt([-5.0, 1.0, 2.0, 1.0])
    assert 0 not in sampler.draw(500, generator()).ids.tolist()
    assert sampler.metrics()["negative"] == 0.25


def test_metrics() -> None:
    told = learnt([3.0, 1.0], rows=4).metrics()
    weights = [3.0, 1.0, 3.0, 3.0]
    assert told["seen"] == 0.5
    assert told["loss"] == 2
    assert float(told["effective"]) == pytest.approx(sum(weights) ** 2 / sum(one**2 for one in weights) / 4)


def test_alpha_and_beta_may_anneal() -> None:
    sampler = learnt([1.0, 4.0], alpha=Anneal(0.0, 1.0, stop=100), beta=Anneal(0.0, 1.0, stop=100), rows=3)
    assert abs(chi_square(counts(sampler, 10), torch.tensor([1.0, 1.0, 1.0]))) < 4
    sampler.progress = Progress(step=50)
    assert abs(chi_square(counts(sampler, 10), torch.tensor([1.0, 2.0, 2.0]))) < 4
    sampler.observe(at(0), {"loss": torch.tensor([31.0])})  # a mean of 4
    sampler.progress = Progress(step=100)
    drawn = sampler.draw(30, generator())
    assert abs(chi_square(counts(sampler, 10), torch.tensor([4.0, 4.0, 4.0]))) < 4
    torch.testing.assert_close(drawn.weights, torch.ones(30, dtype=torch.float64))


@pytest.mark.parametrize("replacement", [True, False])
def test_a_resumed_run_goes_on_bit_for_bit(replacement: bool) -> None:
    go_on_alike(lambda: LossProportional(23, alpha=0.7, beta=0.4, decay=0.5, replacement=replacement), size=5)


def test_a_resumed_run_holds_the_same_weights_and_the_moved_power() -> None:
    def make() -> LossProportional:
        sampler = LossProportional(9, alpha=Anneal(1.0, 2.0, stop=10))
        sampler.progress = Progress(step=5)
        return sampler

    first, second = make(), make()
    first.draw(4, generator())
    first.observe(at(1, 2), {"loss": torch.tensor([1.0, 2.0])})
    second.load_state_dict(saved(first))
    second.observe(at(3), {"loss": torch.tensor([3.0])})
    first.observe(at(3), {"loss": torch.tensor([3.0])})
    assert first.draw(100, generator()).ids.equal(second.draw(100, generator()).ids)


@pytest.mark.parametrize("replacement", [True, False])
def test_nothing_waits_for_a_device(replacement: bool) -> None:
    sampler = LossProportional(50, alpha=Anneal(0.5, 1.0, stop=100), beta=0.5, replacement=replacement)

    def steps() -> None:
        for step in range(3):
            sampler.progress = Progress(step=step)
            ids = sampler.draw(64, source).ids
            sampler.learn(ids, {"loss": losses})
            sampler.metrics()

    source, losses = generator(), torch.rand(64)
    assert waits(sampler, steps) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 11.0}, r"LossProportional.alpha must be a finite number in \[0, 10\], got 11.0."),
        ({"alpha": Anneal(0.0, 11.0)}, r"LossProportional.alpha must be a finite number in \[0, 10\]"),
        ({"floor": -0.1}, r"LossProportional.floor must be .*, got -0.1."),
        ({"decay": 1.0}, r"LossProportional.decay must be .*, got 1.0."),
        ({"beta": 1.5}, r"LossProportional.beta must be a finite number in \[0, 1\], got 1.5."),
    ],
)
def test_bad_input(settings, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        LossProportional(4, **settings)


def test_losses_are_needed() -> None:
    with pytest.raises(ArgumentError, match="LossProportional.observe must get the signals loss, got .*correct"):
        LossProportional(4).observe(at(1), {"correct": torch.ones(1)})
