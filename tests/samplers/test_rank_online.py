from __future__ import annotations

import itertools
import math

import pytest
import torch

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.progress import Progress
from lightning_select.samplers.rank_online import RankOnline, rank_online
from lightning_select.schedule import Anneal
from tests.samplers.runs import at, chi_square, generator, go_on_alike
from tests.samplers.waits import waits


def past_the_first_pass(losses: list[float], **settings) -> RankOnline:
    sampler = RankOnline(len(losses), **{"pressure": 100.0} | settings)
    sampler.draw(len(losses), generator())
    sampler.observe(torch.arange(len(losses)), {"loss": torch.tensor(losses)})
    return sampler


@pytest.mark.parametrize(("rows", "pressure"), [(1, 100.0), (5, 1.0), (7, 30.0), (50, 1e6)])
def test_the_probabilities_are_those_of_the_paper(rows: int, pressure: float) -> None:
    theirs = [1 / math.exp(math.log(pressure) / rows) ** i for i in range(1, rows + 1)]
    theirs = [one / sum(theirs) for one in theirs]
    ours = rank_online(torch.arange(1, rows + 1), pressure=pressure)
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64))


def test_the_figures_of_the_paper() -> None:
    """A thousand rows at a pressure of 100: first to last 99.5, and the first has 4.6 of a thousand."""
    chances = rank_online(torch.arange(1, 1001), pressure=100.0)
    assert float(chances[0] / chances[-1]) == pytest.approx(99.5, abs=0.05)
    assert float(chances[0]) == pytest.approx(4.6e-3, abs=5e-5)


def test_the_first_rows_are_one_shuffled_pass() -> None:
    sampler = RankOnline(100, pressure=100.0)
    rows = list(sampler)
    assert sorted(rows) == list(range(100))
    assert rows != sorted(rows)
    assert rows == list(RankOnline(100, pressure=100.0))
    assert rows != list(RankOnline(100, pressure=100.0, seed=1))
    sampler = RankOnline(100, pressure=100.0)
    parts = [sampler.draw(size, generator()).ids for size in (50, 30, 20)]
    assert torch.cat(parts).tolist() == rows


def test_rows_are_drawn_by_rank() -> None:
    losses = [0.5, 9.0, 3.0, 7.0, 0.1]
    sampler, source = past_the_first_pass(losses), generator(1)
    ids = torch.cat([sampler.draw(1, source).ids for _ in range(3000)])
    chances = rank_online(torch.arange(1, 6), pressure=100.0)
    expected = torch.zeros(5, dtype=torch.float64)
    for rank, row in enumerate([1, 3, 2, 0, 4]):
        expected[row] = chances[rank]
    assert abs(chi_square(torch.bincount(ids, minlength=5), expected)) < 4


def test_no_row_comes_twice_in_a_chunk_and_pairs_follow_from_the_ranks() -> None:
    sampler, source = past_the_first_pass([3.0, 2.0, 1.0], pressure=8.0), generator(2)
    chances = [4 / 7, 2 / 7, 1 / 7]
    pairs = list(itertools.permutations(range(3), 2))
    expected = torch.tensor([chances[a] * chances[b] / (1 - chances[a]) for a, b in pairs])
    found = torch.zeros(len(pairs))
    for _ in range(3000):
        found[pairs.index(tuple(sampler.draw(2, source).ids.tolist()))] += 1
    assert abs(chi_square(found, expected)) < 4


def test_without_pressure_all_rows_are_drawn_alike() -> None:
    sampler, source = past_the_first_pass([3.0, 2.0, 1.0, 0.0], pressure=1.0), generator(3)
    ids = torch.cat([sampler.draw(1, source).ids for _ in range(2000)])
    assert abs(chi_square(torch.bincount(ids, minlength=4), torch.ones(4))) < 4


def test_the_pressure_may_anneal() -> None:
    sampler = past_the_first_pass([3.0, 2.0, 1.0], pressure=Anneal(1e9, 1.0, stop=10, shape="exponential"))
    source = generator(4)
    sampler.progress = Progress(step=0)
    first = torch.cat([sampler.draw(1, source).ids for _ in range(500)])
    assert float((first == 0).float().mean()) > 0.99
    sampler.progress = Progress(step=10)
    sampler.observe(at(0), {"loss": torch.tensor([5.0])})
    later = torch.cat([sampler.draw(1, source).ids for _ in range(2000)])
    assert abs(chi_square(torch.bincount(later, minlength=3), torch.ones(3))) < 4


def test_the_default_pressure_needs_the_length_of_training() -> None:
    sampler = RankOnline(4)
    sampler.draw(4, generator())
    with pytest.raises(ConfigurationError, match="Anneal.stop must be a step while the length of training is unknown"):
        sampler.draw(1, generator())
    sampler.progress = Progress(step=1, total_steps=10)
    sampler.draw(1, generator())


def test_rows_without_a_loss_rank_first() -> None:
    sampler = RankOnline(8, pressure=1e12)
    sampler.draw(8, generator())
    nan = float("nan")
    sampler.observe(at(*range(7)), {"loss": torch.tensor([9.0] * 4 + [nan] * 2 + [float("inf")])})
    firsts = {int(sampler.draw(1, generator(seed)).ids) for seed in range(200)}
    assert firsts <= {4, 5, 6, 7}
    assert len(firsts) > 1


def test_equal_losses_rank_at_random_anew_at_every_sorting() -> None:
    sampler = past_the_first_pass([1.0] * 30, pressure=1e12, sort_every=1)
    firsts = []
    for seed in range(300):
        firsts.append(int(sampler.draw(1, generator(seed)).ids))
        sampler.observe(at(0), {"loss": torch.ones(1)})
    assert abs(chi_square(torch.bincount(torch.tensor(firsts), minlength=30), torch.ones(30))) < 4


@pytest.mark.parametrize("sort_every", [1, 3])
def test_ranks_are_those_of_the_last_sorting(sort_every: int) -> None:
    losses = [9.0, 1.0, 0.0]
    sampler = past_the_first_pass(losses, pressure=1e12, sort_every=sort_every)
    assert sampler.draw(1, generator()).ids.tolist() == [0]
    seen = []
    for _ in range(sort_every):
        sampler.observe(at(1), {"loss": torch.tensor([50.0])})
        seen += sampler.draw(1, generator()).ids.tolist()
    assert seen == [0] * (sort_every - 1) + [1]


def test_by_default_rows_are_sorted_twenty_times_per_pass() -> None:
    sampler = past_the_first_pass([1.0] * 200)
    sorts, before = 0, None
    for _ in range(200):
        sampler.draw(1, generator())
        sampler.observe(at(0), {"loss": torch.ones(1)})
        place = sampler.tensors()["place"][1]
        sorts, before = sorts + (place != before), place
    assert sorts == 20


@pytest.mark.parametrize("first", [0, 3, 10])
def test_a_chunk_larger_than_the_dataset_and_one_over_the_end_of_the_first_pass(first: int) -> None:
    sampler = RankOnline(10, pressure=100.0)
    if first:
        sampler.draw(first, generator())
    for count in (8, 25):
        ids = sampler.draw(count, generator(count)).ids.tolist()
        assert len(ids) == count
        for start in range(0, count, 10):
            assert len(set(ids[start : start + 10])) == len(ids[start : start + 10])


def test_twins_and_padding() -> None:
    sampler = past_the_first_pass([1.0, 2.0, 3.0], pressure=1e12, sort_every=1)
    sampler.observe(at(0, 0, -1), {"loss": torch.tensor([8.0, 4.0, 99.0])})
    assert sampler.draw(3, generator()).ids.tolist() == [0, 2, 1]
    sampler.observe(at(), {"loss": torch.zeros(0)})


def test_metrics() -> None:
    sampler = RankOnline(4, pressure=1.0)
    sampler.observe(at(0, 1), {"loss": torch.tensor([1.0, 3.0])})
    told = sampler.metrics()
    assert (told["seen"], told["loss"], told["effective"]) == (0.5, 2.0, 1.0)
    assert float(past_drawn().metrics()["effective"]) < 0.5


def past_drawn() -> RankOnline:
    sampler = past_the_first_pass([1.0] * 50, pressure=1e6)
    sampler.draw(1, generator())
    return sampler


@pytest.mark.parametrize("sort_every", [None, 3])
def test_a_resumed_run_goes_on_bit_for_bit(sort_every: int | None) -> None:
    for before in (2, 5, 9):
        go_on_alike(lambda: RankOnline(23, pressure=50.0, sort_every=sort_every), before=before)


def test_nothing_waits_for_a_device() -> None:
    sampler, losses = RankOnline(50, pressure=10.0, sort_every=1), torch.rand(16)
    sampler.draw(45, generator())

    def steps() -> None:
        for seed in range(5):
            sampler.learn(sampler.draw(16, sources[seed]).ids, {"loss": losses})
            sampler.updates += 1
        sampler.metrics()

    sources = [generator(seed) for seed in range(5)]
    assert waits(sampler, steps) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pressure": 0.5}, r"RankOnline.pressure must be a finite number in \[1, 1e\+12\], got 0.5."),
        ({"pressure": Anneal(2.0, 0.5)}, "RankOnline.pressure must be a finite number"),
        ({"sort_every": 0}, "RankOnline.sort_every must be a whole number, at least 1, got 0."),
    ],
)
def test_bad_input(settings, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        RankOnline(4, **settings)
