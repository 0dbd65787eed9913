"""What all samplers share: the stream of draws, its account, and what it says about bad input."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, TensorDataset

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.ledger import Chunk, Ledger, share
from lightning_select.samplers.progress import Progress
from lightning_select.samplers.repeated_random import RepeatedRandom
from tests.samplers.runs import saved
from tests.samplers.toy import ByLastLoss, Plain

CPU = torch.device("cpu")


def learn_from(sampler: ByLastLoss, ids: list[int]) -> None:
    """As if the loss of a row were its place in the dataset, and changed a little in every step."""
    losses = torch.tensor([float(row) + 1 + 0.1 * sampler.updates for row in ids])
    sampler.observe(torch.tensor(ids), {"loss": losses})


def train(sampler: ByLastLoss, lead: int, steps: int, *, size: int = 4) -> list[list[int]]:
    """What a Trainer does with a loader whose workers draw ``lead`` batches ahead."""
    sampler.bind(size, lead, CPU)
    stream = iter(sampler)
    waiting = [[next(stream) for _ in range(size)] for _ in range(lead)]
    done = []
    for _ in range(steps):
        waiting.append([next(stream) for _ in range(size)])
        ids = waiting.pop(0)
        sampler.arrived(ids)
        learn_from(sampler, ids)
        done.append(ids)
    return done


def passed_on(sampler: ByLastLoss, lead: int) -> ByLastLoss:
    """Another one, with the state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    other = type(sampler)(sampler.rows)
    other.bind(4, lead, CPU)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def test_lightning_leaves_it_as_it_is() -> None:
    assert isinstance(Plain(10), DistributedSampler)


def test_it_draws_the_length_of_the_dataset_or_as_many_as_asked() -> None:
    assert len(list(Plain(10))) == len(Plain(10)) == 10
    assert len(list(Plain(10, num_samples=25))) == 25
    assert Plain(range(7)).rows == 7


def test_each_iteration_is_another_epoch_and_a_seed_tells_all() -> None:
    one, two, other = Plain(50, seed=1), Plain(50, seed=1), Plain(50, seed=2)
    first, second = list(one), list(one)
    assert first != second
    assert [list(two), list(two)] == [first, second]
    assert list(other) != first
    assert one.epoch == 1


def test_an_epoch_can_be_named_in_a_loop_of_ones_own() -> None:
    one, two = Plain(50), Plain(50)
    epochs = [list(one) for _ in range(3)]
    two.set_epoch(2)
    assert list(two) == epochs[2]
    two.set_epoch(0)
    assert list(two) == epochs[0]


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    list(Plain(50))
    assert torch.equal(state, torch.get_rng_state())


def test_what_is_learnt_shows_in_the_next_batch() -> None:
    sampler = ByLastLoss(20)
    sampler.bind(10, 0, CPU)
    batches = iter(BatchSampler(sampler, 10, drop_last=False))
    next(batches)
    sampler.observe(torch.arange(20), {"loss": (torch.arange(20) == 3).float()})
    assert next(batches) == [3] * 10


@pytest.mark.parametrize("lead", [0, 1, 4])
@pytest.mark.parametrize("stop", [1, 2, 7, 11])
def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(lead: int, stop: int) -> None:
    whole = train(ByLastLoss(60), lead, 15 - lead)
    sampler = ByLastLoss(60)
    before = train(sampler, lead, min(stop, 14 - lead))
    after = train(passed_on(sampler, lead), lead, 15 - lead - len(before))
    assert before + after == whole


def test_a_run_resumed_with_fewer_workers_keeps_their_lag_and_draws_the_same() -> None:
    whole = train(ByLastLoss(60), 4, 11)
    sampler = ByLastLoss(60)
    before = train(sampler, 4, 5)
    assert before + train(passed_on(sampler, 0), 0, 6) == whole


def test_with_a_lag_of_its_own_the_workers_make_no_difference() -> None:
    runs = [train(ByLastLoss(60, lag=4), lead, 11) for lead in (0, 2, 4)]
    assert runs[0] == runs[1] == runs[2]
    assert train(ByLastLoss(60), 0, 11) != runs[0]


def test_the_lag_is_measured() -> None:
    sampler = ByLastLoss(60)
    sampler.bind(4, 2, CPU)
    stream = iter(sampler)
    waiting, lags = [[next(stream) for _ in range(4)] for _ in range(2)], []
    for _ in range(5):
        waiting.append([next(stream) for _ in range(4)])
        lags.append(sampler.arrived(waiting.pop(0)).lag)
    assert lags == [0, 1, 2, 2, 2]


def test_asked_to_start_over_before_anything_arrived_it_goes_on_with_the_same() -> None:
    once, twice = Plain(40), Plain(40)
    for sampler in (once, twice):
        sampler.bind(4, 0, CPU)
    stream = iter(twice)
    drawn = [next(stream) for _ in range(8)]  # as workers do at once
    assert list(twice) == list(once)
    assert twice.epoch == 0
    assert len(drawn) == 8


def test_an_epoch_that_is_cut_short_is_over() -> None:
    sampler = Plain(40)
    sampler.bind(4, 0, CPU)
    stream = iter(sampler)
    sampler.arrived([next(stream) for _ in range(4)])
    sampler.close_epoch()
    assert len(list(sampler)) == 40
    assert sampler.epoch == 1


def test_a_batch_sampler_may_put_rows_in_another_order() -> None:
    ledger = Ledger()
    ledger.add(Chunk([5, 6, 7, 8], [1.0, 2.0, 3.0, 4.0], 0))
    ledger.add(Chunk([9, 5], [5.0, 6.0], 1))
    arrival = ledger.take([9, 7])
    assert (arrival.weights, arrival.version) == ([5.0, 3.0], 0)
    assert [chunk.ids for chunk in ledger.pending()] == [[5, 6, 8], [5]]
    assert ledger.take([5, 6, 8, 5]).weights == [1.0, 2.0, 4.0, 6.0]
    assert not ledger.holds_rows


def test_rows_that_were_never_drawn_count_once() -> None:
    ledger = Ledger()
    ledger.add(Chunk([1], [3.0], 0))
    arrival = ledger.take([2, 1, 2])
    assert (arrival.weights, arrival.version) == ([1.0, 3.0, 1.0], 0)
    assert ledger.take([4]).version is None


def test_samplers_can_be_copied_and_pickled() -> None:
    sampler = ByLastLoss(30)
    train(sampler, 0, 3)
    for twin in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert list(twin) == list(copy.deepcopy(sampler))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Plain(0), r"Plain.dataset must have at least one row, got 0."),
        (lambda: Plain(10, num_samples=0), r"Plain.num_samples must be a whole number, at least 1, got 0."),
        (lambda: Plain(10, num_samples=2.5), r"Plain.num_samples must be a whole number, at least 1, got 2.5."),
        (lambda: Plain(10, seed="x"), r"Plain.seed must be a whole number, got 'x'."),
        (lambda: Plain(10, lag=-1), r"Plain.lag must be a whole number, at least 0, got -1."),
        (lambda: Plain(True), r"Plain.dataset must have a length and be read by position, got bool."),
        (lambda: Plain(Endless()), r"Plain.dataset must have a length .*, got Endless. For a stream"),
        (lambda: Plain(Unsized()), r"Plain.dataset must have a length .*, got Unsized."),
    ],
)
def test_bad_arguments(make: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        make()


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(3))

    def __len__(self) -> int:
        return 3


class Unsized(torch.utils.data.Dataset):
    pass


def test_shuffle_together_with_a_sampler_is_refused_by_torch() -> None:
    with pytest.raises(ValueError, match="sampler option is mutually exclusive with shuffle"):
        DataLoader(list(range(4)), sampler=Plain(4), shuffle=True)


def test_signals_that_are_missing() -> None:
    with pytest.raises(ArgumentError, match="ByLastLoss.observe must get the signals loss, got reward"):
        ByLastLoss(4).observe(torch.tensor([0]), {"reward": torch.ones(1, 2)})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rows", 99, r"the dataset must have the length that the checkpoint holds \(99\), got 10"),
        ("sampler", "Other", r"the sampler must be of the kind that the checkpoint holds \(Other\), got ByLastLoss"),
        ("dataset", "Birds", r"the dataset must be of the class that the checkpoint holds \(Birds\), got rows"),
    ],
)
def test_a_state_of_another_run(key: str, value: Any, said: str) -> None:
    sampler = ByLastLoss(10)
    with pytest.raises(ConfigurationError, match=said):
        sampler.load_state_dict({**sampler.state_dict(), key: value})


def test_a_sampler_that_nobody_feeds_says_so_once() -> None:
    sampler = ByLastLoss(300)
    with pytest.warns(UserWarning, match="ByLastLoss has learnt nothing from 300 rows drawn"):
        list(sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(sampler)
        list(Plain(300))
        list(ByLastLoss(200))


def test_a_long_first_epoch_without_news_is_enough_to_say_so() -> None:
    rows = iter(ByLastLoss(5000))
    with pytest.warns(UserWarning, match="has learnt nothing from 2080 rows"):
        [next(rows) for _ in range(2100)]


@pytest.mark.parametrize(("rows", "batches", "told"), [(200, 99, 400), (256, 99, 512), (5000, 10, 2080)])
def test_short_epochs_without_news_add_up_to_enough_to_say_so(rows: int, batches: int, told: int) -> None:
    """Epochs of few rows, and those that a loop breaks off."""
    data = DataLoader(range(rows), 8, sampler=ByLastLoss(rows))
    with pytest.warns(UserWarning, match=f"has learnt nothing from {told} rows") as said:
        _ = [list(itertools.islice(data, batches)) for _ in range(50)]
    assert len(said) == 1


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 6])
@pytest.mark.parametrize(("before", "world"), [(1, 2), (2, 3), (3, 2), (2, 1)])
def test_rows_on_their_way_are_dealt_out_evenly_to_other_ranks(rows: int, before: int, world: int) -> None:
    """A rank with a batch more than another would wait for it for ever."""
    every = torch.arange(10, 10 + rows)
    pending = [
        {"ids": every[one::before], "weights": every[one::before] / 2, "sizes": torch.tensor([]), "versions": every}
        for one in range(before)
    ]
    dealt = [share(pending, rank, world) for rank in range(world)]
    assert len({len(one["ids"]) for one in dealt}) == 1
    assert {row for one in dealt for row in one["ids"].tolist()} == set(every.tolist())
    assert sum(len(one["ids"]) for one in dealt) < rows + world
    assert all(torch.equal(one["weights"], one["ids"] / 2) for one in dealt)


def test_rows_dealt_out_to_other_ranks_are_as_old_as_the_oldest_of_them() -> None:
    def started(world: int) -> Any:
        sampler = Plain(40)
        sampler.bind(4 * world, 2, torch.device("cpu"))
        return sampler

    first = started(2)
    rows = iter(first)
    for _ in range(3):
        first.arrived([next(rows) for _ in range(8)])
        first.landed()
    next(rows)
    state = first.state_dict()
    state["stream"]["pending"] *= 2
    again = started(1)
    assert "another number of ranks" in again.load_state_dict(state)
    rows = iter(again)
    assert again.arrived([next(rows) for _ in range(4)]).lag == 0


@pytest.mark.parametrize("total", [100, 100.0, np.int64(100), np.float32(100)])
def test_the_length_of_training_may_be_what_lightning_estimates(total: Any) -> None:
    sampler = Plain(8)
    sampler.progress = Progress(step=np.int64(3), total_steps=total, max_epochs=2.0)
    assert repr(sampler.progress) == "Progress(step=3, total_steps=100, max_epochs=2)"
    again = Plain(8)
    again.load_state_dict(sampler.state_dict())
    assert again.progress == sampler.progress


def test_a_length_of_training_that_is_infinite_is_not_known() -> None:
    assert Progress(total_steps=math.inf, max_epochs=math.inf) == Progress()


@pytest.mark.parametrize(
    ("name", "value"), [("step", None), ("step", math.inf), ("total_steps", 0.5), ("max_epochs", "2")]
)
def test_progress_is_counted_in_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"Progress.{name} must be a whole number, got "):
        Progress(**{name: value})


class Careless(ByLastLoss):
    """Takes half of a state over before it fails, with whatever error."""

    error: type[Exception] = RuntimeError

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        super().load_tensors(state)
        if float(self.last[0]) == 5:
            raise self.error("no five")


@pytest.mark.parametrize("error", [RuntimeError, TypeError, KeyError, ZeroDivisionError])
def test_any_error_of_a_sampler_leaves_what_was_there(error: type[Exception]) -> None:
    sampler = Careless(4)
    sampler.error = error
    sampler.last[1] = 3.0
    state = ByLastLoss(4).state_dict() | {"sampler": "Careless"}
    state["learnt"]["last"][0] = 5
    told = rf"^Careless: state\.learnt of the checkpoint must be what it saves, got {error.__name__}: .*no five"
    with pytest.raises(ConfigurationError, match=told) as caught:
        sampler.load_state_dict(state)
    assert isinstance(caught.value.__cause__, error)
    assert sampler.last.tolist() == [1, 3, 1, 1]


def test_weights_of_some_ranks_alone_are_refused() -> None:
    """Dealt out to another number of ranks, they would be weights of other rows."""

    def pending(rows: int, weights: int) -> dict[str, torch.Tensor]:
        sizes = torch.tensor([rows] if rows else [], dtype=torch.int64)
        one = torch.ones(weights, dtype=torch.float64)
        return {"ids": torch.arange(rows), "weights": one, "sizes": sizes, "versions": torch.zeros_like(sizes)}

    state = Plain(8).state_dict()
    state["stream"]["pending"] = [pending(4, 4), pending(4, 0)]
    with pytest.raises(ConfigurationError, match=r"^Plain: state\.stream\.pending .* weights of all ranks or of none"):
        Plain(8).load_state_dict(state)
    for fine in ([pending(4, 4), pending(0, 0)], [pending(4, 0), pending(0, 0)], [pending(2, 2), pending(4, 4)]):
        state["stream"]["pending"] = fine
        Plain(8).load_state_dict(state)


def test_a_length_of_training_that_trainers_write_as_minus_one_is_not_known() -> None:
    assert Progress(total_steps=-1, max_epochs=-1) == Progress(total_steps=-1.0) == Progress()


@pytest.mark.parametrize("value", [-2, -1000.0, 10**400, -(10**400)])
@pytest.mark.parametrize("name", ["step", "total_steps", "max_epochs"])
def test_a_length_of_training_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"Progress\.{name} must "):
        Progress(**{name: value})
    with pytest.raises(ArgumentError, match=r"Progress\.step must not be below 0, got -1\."):
        Progress(step=-1)


@pytest.mark.parametrize("place", range(3))
def test_a_state_with_such_a_length_changes_nothing(place: int) -> None:
    sampler, state = ByLastLoss(4), ByLastLoss(4).state_dict()
    state["learnt"]["last"][0], state["updates"], state["progress"][place] = 5, 7, -2
    with pytest.raises(ConfigurationError, match=r"ByLastLoss: state\.progress.* of the checkpoint must be in"):
        sampler.load_state_dict(state)
    assert (sampler.last.tolist(), sampler.updates, sampler.progress) == ([1.0] * 4, 0, Progress())


def test_a_number_of_rows_may_be_one_of_numpy() -> None:
    sampler = Plain(np.int64(7))
    assert (sampler.rows, type(sampler.rows)) == (7, int)
    Plain(7).load_state_dict(sampler.state_dict())
    with pytest.raises(ArgumentError, match=r"Plain\.dataset must have at least one row, got 0\."):
        Plain(np.int32(0))


class Growing(Plain):
    """Keeps numbers of another kind as soon as it has learnt, and a tuple."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.shares, self.counts = torch.zeros(rows), torch.zeros(rows, dtype=torch.uint8)
        self.coins = random.Random(3)

    def learn(self, ids, signals):
        self.shares = self.shares.double() + 1 / 3
        self.counts = self.counts.long() + 300
        self.coins.random()

    def tensors(self):
        return {"shares": self.shares.clone(), "counts": self.counts.clone(), "coins": self.coins.getstate()}

    def load_tensors(self, state):
        self.shares, self.counts = state["shares"].clone(), state["counts"].clone()
        self.coins.setstate(state["coins"])


def test_a_sampler_of_ones_own_gets_its_state_back_as_it_was() -> None:
    first, second = Growing(4), Growing(4)
    first.observe(torch.arange(4), {})
    second.load_state_dict(first.state_dict())
    assert second.shares.dtype == torch.float64
    assert torch.equal(first.shares, second.shares)
    assert torch.equal(first.counts, second.counts)
    assert first.coins.random() == second.coins.random()


def own_loop(sampler: Any, steps: int, arrive: bool, *, workers: int = 0) -> list[list[int]]:
    """Batches of a loop without a Trainer, over as many epochs as it takes."""
    data, seen = TensorDataset(torch.arange(64), torch.rand(64, generator=torch.Generator().manual_seed(3))), []
    while True:
        for ids, losses in DataLoader(data, 8, sampler=sampler, num_workers=workers):
            if arrive:
                sampler.arrived(ids)
            if sampler.needs:
                sampler.observe(ids, {"loss": losses + 0.1})
            else:
                sampler.landed()
            seen.append(ids.tolist())
            if len(seen) == steps:
                return seen


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("kind", "arrive"), [(ByLastLoss, False), (ByLastLoss, True), (RepeatedRandom, True)])
def test_a_loop_of_ones_own_goes_on_amid_the_epoch_that_it_names(kind: Any, arrive: bool, workers: int) -> None:
    def made() -> Any:
        return kind(64) if kind is ByLastLoss else kind(64, fraction=1.0)

    whole, first, second = own_loop(made(), 11, arrive), made(), made()
    before = own_loop(first, 3, arrive, workers=workers)
    assert second.load_state_dict(saved(first)) == ""
    second.set_epoch(first.epoch)
    after = own_loop(second, 8, arrive)
    if kind is RepeatedRandom:
        assert sorted(row for ids in (before + after)[:8] for row in ids) == list(range(64))
    assert before + after == whole or workers  # whose draws know less
    assert len(before + after[:5]) * 8 == second.total_size
    assert second.epoch == 1


def test_a_loop_of_ones_own_that_names_no_epoch_is_told_what_it_leaves_out() -> None:
    first, second, third = (RepeatedRandom(64, fraction=1.0) for _ in range(3))
    own_loop(first, 3, True)
    state = saved(first)
    second.load_state_dict(state)
    told = r"RepeatedRandom starts epoch 1 and leaves out 40 rows of epoch 0, .* call set_epoch\(0\)"
    with pytest.warns(UserWarning, match=told):
        own_loop(second, 9, True)
    third.load_state_dict(state)
    third.set_epoch(1)
    assert sorted(row for ids in own_loop(third, 8, True) for row in ids) == list(range(64))


@pytest.mark.parametrize("size", [8, 9])
def test_an_epoch_that_was_over_is_not_gone_on_amid(size: int, recwarn: Any) -> None:
    """Fabric names epochs from 0 in every process; the 64 rows are 7 batches of 9 and one row, which is dropped."""

    def epoch(sampler: Any) -> int:
        loader = DataLoader(range(64), size, sampler=sampler, drop_last=True)
        return sum(1 for ids in loader if sampler.arrived(ids) and sampler.landed() is None)

    first, named, plain = (RepeatedRandom(64, fraction=1.0) for _ in range(3))
    assert epoch(first) == 64 // size
    for one in (named, plain):
        one.load_state_dict(saved(first))
    named.set_epoch(0)
    assert (epoch(named), named.epoch) == (64 // size, 1)
    assert (epoch(plain), plain.epoch) == (64 // size, 1)
    assert not recwarn.list


def rest_of_epoch(sampler: Any, size: int, stop: int | None = None, **kwargs: Any) -> list[list[int]]:
    """Batches of one iteration in a loop of one's own, which may break it off."""
    seen: list[list[int]] = []
    for ids in DataLoader(range(sampler.rows), size, sampler=sampler, **kwargs):
        sampler.arrived(ids)
        sampler.landed()
        seen.append(ids.tolist())
        if len(seen) == stop:
            break
    return seen


def resumed_after(rows: int, size: int, stop: int | None, **kwargs: Any) -> tuple[Any, list[list[int]]]:
    first, second = (RepeatedRandom(rows, fraction=1.0) for _ in range(2))
    before = rest_of_epoch(first, size, stop, **kwargs)
    second.load_state_dict(saved(first))
    second.load_state_dict(saved(second))  # saved once more before anything arrives
    second.set_epoch(0)
    return second, before


@pytest.mark.parametrize(
    ("rows", "size", "stops", "workers"),
    [(10, 4, (1, 2), 0), (32, 4, (1, 7), 0), (61, 8, (6, 7), 0), (100, 33, (3,), 0), (12, 4, (1, 2), 1)],
)
def test_no_row_of_an_epoch_is_lost_near_its_end(rows: int, size: int, stops: tuple[int, ...], workers: int) -> None:
    """All rows are drawn by then, and fewer wait than one draw has: every row comes once, in so many batches."""
    for stop in stops:
        sampler, before = resumed_after(rows, size, stop, num_workers=workers)
        after = rest_of_epoch(sampler, size)
        assert sampler.epoch == 0
        assert len(before) + len(after) == math.ceil(rows / size)
        assert sorted(row for ids in before + after for row in ids) == list(range(rows))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("rows", "size"), [(10, 4), (70, 33)])
def test_rows_that_a_loader_dropped_are_not_gone_on_with(rows: int, size: int, workers: int) -> None:
    sampler, before = resumed_after(rows, size, None, num_workers=workers, drop_last=True)
    assert len(before) == len(rest_of_epoch(sampler, size, drop_last=True)) == rows // size
    assert sampler.epoch == 1


def test_a_state_that_does_not_tell_whether_a_loader_asked_for_all_is_read() -> None:
    first, second = (RepeatedRandom(64, fraction=1.0) for _ in range(2))
    before, state = rest_of_epoch(first, 8, 3), saved(first)
    state["stream"]["place"] = state["stream"]["place"][:6]
    second.load_state_dict(state)
    second.set_epoch(0)
    assert sorted(row for ids in before + rest_of_epoch(second, 8) for row in ids) == list(range(64))


def test_news_of_rows_that_were_not_drawn_next_say_nothing_of_what_arrived() -> None:
    first, second = ByLastLoss(64), ByLastLoss(64)
    before = own_loop(first, 3, False)
    first.observe(torch.arange(10), {"loss": torch.rand(10)})
    second.load_state_dict(saved(first))
    second.set_epoch(0)
    assert len(before) + len(list(second)) // 8 == 8
