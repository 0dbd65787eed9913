from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.info_batch import InfoBatch, info_batch
from lightning_select.samplers.progress import Progress
from tests.samplers.presets import build, check_defaults, untyped
from tests.samplers.runs import at, batches, bound, generator, go_on_alike, losses_of, saved, train
from tests.samplers.waits import waits


def learnt(losses: list[float], **settings) -> InfoBatch:
    """A sampler without an end that has seen every row once."""
    sampler = InfoBatch(len(losses), **{"full_last": 0.0} | settings)
    ids = sampler.draw(len(losses), generator(99)).ids if sampler.mode == "constant" else torch.arange(len(losses))
    sampler.observe(ids, {"loss": torch.tensor(losses)[ids]})
    return sampler


def plans_of(sampler: InfoBatch, epochs: int) -> list[tuple[Tensor, Tensor]]:
    """Ids and weights of a sampler in shrinking mode, epoch by epoch, with losses that stay."""
    found = []
    for _ in range(epochs):
        ids = torch.tensor(list(sampler))
        found.append((ids, sampler._weights.clone()))
        sampler.observe(ids, losses_of(ids, 0))
    return found


def test_the_config_is_complete() -> None:
    check_defaults("info_batch")
    assert isinstance(build("info_batch", 4), InfoBatch)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-5, 50), st.just(math.nan)), min_size=1, max_size=60),
    st.floats(0, 0.9),
    st.integers(0, 1000),
)
def test_the_equations_row_by_row(losses: list[float], ratio: float, seed: int) -> None:
    known = torch.tensor(losses)
    stays, weights = info_batch(known, ratio, generator(seed))
    values = [float(one) for one in known]
    finite = [one for one in values if not math.isnan(one)]
    mean = sum(finite) / len(finite) if finite else math.nan
    well = [row for row, one in enumerate(values) if one < mean]
    kept = len(well) - math.floor(ratio * len(well) + 1e-9)
    assert sum(bool(stays[row]) for row in well) == kept
    for row in range(len(values)):
        if row in well:
            assert float(weights[row]) == pytest.approx(len(well) / kept)
        else:
            assert bool(stays[row])
            assert float(weights[row]) == 1.0
    assert float(weights[stays].sum()) == pytest.approx(len(values), rel=1e-12)


@pytest.mark.parametrize("rows", range(1, 40))
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_weights_of_a_pass_sum_to_the_number_of_rows(rows: int, ratio: float) -> None:
    """The released code keeps 1 of 3 rows at weight 2."""
    losses = torch.cat([torch.linspace(0, 1, rows), torch.tensor([1e3])])
    stays, weights = info_batch(losses, ratio, generator(rows))
    assert int(stays.sum()) == rows + 1 - math.floor(ratio * rows + 1e-9)
    assert float(weights[stays].sum()) == pytest.approx(rows + 1, rel=1e-12)


def test_a_share_is_not_lost_to_rounding() -> None:
    """0.7 * 10 is 7, though in floats 10 * (1 - 0.7) is a little more than 3, and 0.29 * 100 less than 29."""
    losses = torch.cat([torch.zeros(100), torch.tensor([1e3])])
    assert int(info_batch(losses, 0.29, generator())[0].sum()) == 101 - 29


def test_the_weighted_sum_is_right_on_average() -> None:
    losses = torch.tensor([0.1, 0.9, 0.4, 0.3, 5.0, 2.0, 0.7, 3.0, 0.2, 1.1]).double()
    sums = []
    for seed in range(4_000):
        stays, weights = info_batch(losses, 0.5, generator(seed))
        sums.append(float((weights * losses)[stays].sum()))
    spread = torch.tensor(sums).std() / len(sums) ** 0.5
    assert sum(sums) / len(sums) == pytest.approx(float(losses.sum()), abs=4 * float(spread))
    assert spread > 0


def test_losses_that_are_all_equal_prune_nothing() -> None:
    stays, weights = info_batch(torch.full((50,), 0.1), 0.5, generator())
    assert stays.all()
    assert (weights == 1).all()


@pytest.mark.parametrize("mode", ["constant", "shrinking"])
def test_the_first_pass_has_every_row_once_with_weight_one(mode: str) -> None:
    sampler = InfoBatch(20, mode=mode, full_last=0.0)
    assert len(sampler) == 20
    assert sorted(sampler) == list(range(20))
    drawn = sampler._weights
    assert (drawn == 1).all()


def test_passes_follow_each_other_inside_an_epoch() -> None:
    """Of ten rows eight are learnt well: a pass has six rows, and what was learnt by its end plans the next."""
    losses = [0.1] * 8 + [9.0, 9.0]
    sampler = learnt(losses)
    assert len(sampler) == 10
    drawn = [sampler.draw(4, generator(seed)) for seed in range(3)]
    ids, weights = torch.cat([one.ids for one in drawn]), torch.cat([one.weights for one in drawn])
    for begin in (0, 6):
        part = ids[begin : begin + 6]
        assert len(set(part.tolist())) == 6
        assert {8, 9} <= set(part.tolist())
        assert weights[begin : begin + 6].sum() == 10
        assert weights[begin : begin + 6][part < 8].tolist() == [2.0] * 4
    assert sampler.passes == 3  # with the first, of all rows


def test_what_is_learnt_changes_the_next_pass() -> None:
    sampler = learnt([0.1] * 8 + [9.0, 9.0])
    sampler.draw(6, generator())
    sampler.observe(at(8, 9, 0), {"loss": torch.tensor([0.1, 0.1, 50.0])})
    drawn = sampler.draw(6, generator())
    assert 0 in drawn.ids.tolist()
    assert drawn.weights[drawn.ids == 0] == 1
    assert int((drawn.ids > 0).sum()) == 5  # of nine rows learnt well, four are left out
    assert float(drawn.weights.sum()) == pytest.approx(10)


def test_the_loss_of_a_row_left_out_stays_old() -> None:
    sampler = learnt([0.1] * 8 + [9.0, 9.0])
    before = sampler.history.last_loss.clone()
    drawn = sampler.draw(6, generator()).ids
    sampler.observe(drawn, {"loss": torch.full((6,), 0.5)})
    out = sorted(set(range(10)) - set(drawn.tolist()))
    assert len(out) == 4
    assert torch.equal(sampler.history.last_loss[out], before[out])
    assert (sampler.history.last_loss[drawn] == 0.5).all()


def test_rows_never_seen_or_without_a_finite_loss_stay() -> None:
    sampler = InfoBatch(9, full_last=0.0)
    sampler.draw(9, generator())
    loss = torch.tensor([0.1, 0.1, 0.1, 0.1, 9.0, math.nan, math.inf, 5.0])
    sampler.observe(at(0, 1, 2, 3, 4, 5, 6, -1), {"loss": loss})
    for seed in range(20):
        drawn = sampler.draw(7, generator(seed))
        assert {4, 5, 6, 7, 8} <= set(drawn.ids.tolist())
        assert drawn.weights[drawn.ids > 3].tolist() == [1.0] * 5


def test_a_row_that_comes_twice_in_a_batch_has_its_mean_loss() -> None:
    sampler = InfoBatch(3)
    sampler.observe(at(1, 1), {"loss": torch.tensor([1.0, 4.0])})
    assert sampler.history.last_loss[1] == 2.5


@pytest.mark.parametrize("epochs", [8, 16, 30, 4, 1])
def test_the_last_eighth_of_the_epochs_is_full(epochs: int) -> None:
    sampler = InfoBatch(40, mode="shrinking")
    sampler.progress = Progress(max_epochs=epochs)
    lengths = [len(ids) for ids, _ in plans_of(sampler, epochs)]
    full = math.ceil(epochs / 8)
    assert lengths[0] == 40
    assert lengths[-full:] == [40] * full
    assert all(length < 40 for length in lengths[1:-full])


def test_the_last_eighth_of_the_steps_is_full_from_the_very_batch_on() -> None:
    sampler = learnt([0.1] * 36 + [9.0] * 4)
    sampler.full_last = 0.125
    sampler.progress = Progress(step=69, total_steps=80)
    assert float(sampler.draw(10, generator(1)).weights.max()) == 2
    sampler.progress = Progress(step=70, total_steps=80)
    ids = torch.cat([sampler.draw(10, generator(seed)).ids for seed in range(4)])
    assert sorted(ids.tolist()) == list(range(40))
    drawn = sampler.draw(95, generator())
    assert (drawn.weights == 1).all()
    assert torch.bincount(drawn.ids).max() == 3


def test_where_only_the_epochs_are_known_they_count_in_constant_mode_too() -> None:
    sampler = InfoBatch(40)
    sampler.progress = Progress(max_epochs=8)
    stream = batches(bound(sampler, 8), 8)
    train(sampler, stream, range(5 * 7))
    assert sampler.epoch == 6
    assert sampler.passes > 7
    before = sampler.passes
    rows = list(itertools.chain(*train(sampler, stream, range(5))))
    assert sampler.epoch == 7
    assert sorted(rows) == list(range(40))
    assert sampler.passes == before + 1


@pytest.mark.parametrize("mode", ["constant", "shrinking"])
def test_an_end_that_nobody_knows_is_an_error(mode: str) -> None:
    with pytest.raises(ConfigurationError, match="InfoBatch.full_last must be 0 while the length of training is unk"):
        list(InfoBatch(8, mode=mode))
    assert len(list(InfoBatch(8, mode=mode, full_last=0.0))) == 8


def test_an_epoch_shrinks_and_its_length_is_known_before_it_starts() -> None:
    sampler = InfoBatch(20, mode="shrinking", full_last=0.0)
    sampler.bind(4, 0, torch.device("cpu"))
    ids = torch.tensor(list(sampler))
    sampler.observe(ids, {"loss": torch.where(ids < 16, 0.1, 9.0)})
    assert len(sampler) == 20
    sampler.end_epoch()
    sampler.close_epoch()
    assert len(sampler) == 12
    second = list(sampler)
    assert len(second) == len(set(second)) == 12
    assert set(range(16, 20)) <= set(second)
    assert sampler.epoch == 1
    assert float(sampler._weights.sum()) == 20


def test_alone_each_epoch_is_planned_when_it_starts() -> None:
    sampler = InfoBatch(20, mode="shrinking", full_last=0.0)
    plans = plans_of(sampler, 3)
    assert [len(set(ids.tolist())) for ids, _ in plans] == [len(ids) for ids, _ in plans]
    assert len(plans[1][0]) < 20
    assert all(float(weights.sum()) == pytest.approx(20) for _, weights in plans)
    assert plans[1][0].tolist() != plans[2][0].tolist()


def test_a_trainer_is_told_which_mode_changes_the_length() -> None:
    assert InfoBatch(5).constant_length
    assert not InfoBatch(5, mode="shrinking").constant_length


def test_a_pass_counts_when_it_starts() -> None:
    sampler = InfoBatch(20, mode="shrinking", full_last=0.0)
    plans_of(sampler, 3)
    assert sampler.passes == 3
    before = sampler.metrics()["skipped"]
    sampler.end_epoch()
    assert (sampler.passes, sampler.metrics()["skipped"]) == (3, before)


def test_a_plan_is_made_once_for_its_epoch() -> None:
    sampler = learnt([0.1] * 16 + [9.0] * 4, mode="shrinking")
    sampler.end_epoch()
    planned = sampler._ids.tolist()
    sampler.end_epoch()
    assert sampler._ids.tolist() == planned
    sampler.observe(torch.arange(20), {"loss": torch.arange(20.0)})
    sampler.set_epoch(1)
    assert list(sampler) == planned


def test_ranks_that_share_a_few_rows_more_get_some_again() -> None:
    sampler = learnt([0.1] * 5 + [9.0], mode="shrinking")
    sampler.end_epoch()
    drawn = sampler.draw(len(sampler) + 2, generator())
    assert drawn.ids[-2:].tolist() == drawn.ids[:2].tolist()
    assert drawn.weights[-2:].tolist() == drawn.weights[:2].tolist()


@pytest.mark.parametrize("count", [1, 7, 25])
def test_a_chunk_may_be_larger_than_the_dataset(count: int) -> None:
    drawn = learnt([0.1] * 8 + [9.0, 9.0]).draw(count, generator())
    assert len(drawn.ids) == len(drawn.weights) == count


@pytest.mark.parametrize("mode", ["constant", "shrinking"])
def test_it_goes_on_bit_for_bit_after_a_resume(mode: str) -> None:
    def make() -> InfoBatch:
        sampler = InfoBatch(21, mode=mode)
        sampler.progress = Progress(max_epochs=40)
        return sampler

    for before in (2, 5, 9):
        go_on_alike(make, before=before)


def test_weights_are_the_same_after_a_resume() -> None:
    first = learnt([0.1] * 8 + [9.0, 9.0])
    first.draw(2, generator())
    second = InfoBatch(10, full_last=0.0)
    second.load_state_dict(saved(first))
    for seed in range(3):
        mine, other = first.draw(4, generator(seed)), second.draw(4, generator(seed))
        assert mine.ids.tolist() == other.ids.tolist()
        assert mine.weights.tolist() == other.weights.tolist()
    assert first.metrics() == second.metrics()


def test_a_resume_at_the_end_of_an_epoch_finds_the_plan_of_the_next() -> None:
    first = learnt([0.1] * 16 + [9.0] * 4, mode="shrinking")
    first.bind(4, 0, torch.device("cpu"))
    list(first)
    first.end_epoch()
    first.close_epoch()
    second = InfoBatch(20, mode="shrinking", full_last=0.0)
    second.bind(4, 0, torch.device("cpu"))
    second.load_state_dict(saved(first))
    assert len(second) == len(first) == 12
    assert list(second) == list(first)


def test_only_a_new_pass_waits_for_a_device() -> None:
    sampler = learnt([0.1] * 80 + [9.0] * 20)
    source, signals = generator(), {"loss": torch.ones(8)}
    sampler.draw(8, source)
    inside = [lambda: sampler.draw(8, source), lambda: sampler.learn(torch.arange(8), signals)]
    assert waits(sampler, lambda: [step() for step in inside]) == []
    assert len(waits(sampler, lambda: sampler.draw(60, source))) == 1


def test_metrics_tell_what_was_saved() -> None:
    sampler = learnt([0.1] * 8 + [9.0, 9.0])
    assert sampler.metrics()["skipped"] == 0
    sampler.draw(6, generator())
    found = {name: float(value) for name, value in sampler.metrics().items()}
    assert found == {"passes": 2, "kept": 0.6, "skipped": pytest.approx(0.2), "largest_weight": 2}
    assert InfoBatch(3).metrics()["kept"] == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ratio": 1.0}, r"InfoBatch.ratio must be a finite number in \[0, 0.9\], got 1.0"),
        ({"full_last": -0.1}, r"InfoBatch.full_last must be a finite number in \[0, 1\], got -0.1"),
        ({"mode": "shrink"}, "InfoBatch.mode must be constant or shrinking, got 'shrink'"),
        ({"mode": "shrinking", "num_samples": 4}, "InfoBatch.num_samples must be None in shrinking mode"),
    ],
)
def test_what_is_out_of_range_is_an_error(settings, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        untyped(InfoBatch, 5, **settings)
