"""Samplers of any length, size and feed: as many rows as promised, shared out, and the same rest after a resume."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select import distributed
from lightning_select.errors import ArgumentError
from lightning_select.samplers.base import OnlineSampler
from tests.fuzz.budget import fuzz
from tests.test_every_sampler import NAMES, make, passed_on


@contextlib.contextmanager
def on_rank(rank: int, world: int) -> Iterator[None]:
    """As one of several ranks, which gather what all of them hold: here the same, for they draw the same."""
    with (
        mock.patch.object(distributed, "rank", return_value=rank),
        mock.patch.object(distributed, "world_size", return_value=world),
        mock.patch.object(distributed, "gather_objects", lambda own: [copy.deepcopy(own) for _ in range(world)]),
    ):
        yield


def signals_of(ids: list[int], seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What a model might say, oddities among it: padding, repeated rows, losses that are not finite."""
    noise = torch.Generator().manual_seed(seed)
    losses = torch.randn(len(ids), generator=noise) * 3
    odd = torch.rand(len(ids), generator=noise)
    losses[odd < 0.1] = math.nan
    losses[odd > 0.95] = math.inf
    return torch.tensor(ids, dtype=torch.int64), {
        "loss": losses,
        "reward": torch.rand(len(ids), 3, generator=noise).round(),
    }


def train(sampler: OnlineSampler, steps: int, size: int, lead: int, seed: int) -> list[list[int]]:
    """As many batches as asked for, drawn ``lead`` ahead, over as many epochs as it takes, each as long as promised."""
    sampler.bind(size, lead, torch.device("cpu"))
    done: list[list[int]] = []
    while len(done) < steps:
        rows, waiting, fetched, fresh = iter(sampler), [], 0, not sampler.drawing and not sampler._stream.drawn
        while len(done) < steps:
            while len(waiting) <= lead and (batch := list(itertools.islice(rows, size))):
                waiting.append(batch)
                fetched += len(batch)
            if not waiting:
                assert fetched == len(sampler) or not fresh
                sampler.close_epoch()
                sampler.end_epoch()
                break
            sampler.arrived(waiting[0])
            sampler.observe(*signals_of(waiting[0], seed + sampler.updates))
            done.append(waiting.pop(0))
    return done


@st.composite
def setups(draw: Any) -> tuple[str, int, int, dict[str, Any], int]:
    name = draw(st.sampled_from(NAMES))
    rows = draw(st.integers(2, 70))
    settings: dict[str, Any] = {"seed": draw(st.integers(0, 2**31)), "lag": draw(st.integers(0, 3))}
    if draw(st.booleans()):
        settings["num_samples"] = draw(st.integers(1, 90))
    return name, rows, draw(st.integers(1, 12)), settings, draw(st.integers(0, 2**31))


def made(name: str, rows: int, settings: dict[str, Any]) -> OnlineSampler | None:
    """The sampler, or nothing where its settings contradict each other, and it says so."""
    try:
        return make(name, rows, **settings)
    except ArgumentError:
        return None


@given(setups(), st.integers(0, 3))
@fuzz(0.06, quick=120)
def test_ids_are_in_the_dataset_and_epochs_as_long_as_promised(setup: tuple[Any, ...], lead: int) -> None:
    name, rows, size, settings, seed = setup
    if (sampler := made(name, rows, settings)) is None:
        return
    drawn = train(sampler, 9, size, lead, seed)
    assert {row for batch in drawn for row in batch} <= set(range(rows))
    assert all(torch.as_tensor(value).numel() == 1 for value in sampler.metrics().values())


@given(setups(), st.integers(0, 2), st.integers(0, 9))
@fuzz(0.06, quick=120)
def test_a_resumed_run_draws_the_same_rest(setup: tuple[Any, ...], lead: int, stop: int) -> None:
    name, rows, size, settings, seed = setup
    if (first := made(name, rows, settings)) is None:
        return
    whole = train(make(name, rows, **settings), 14, size, lead, seed)
    before = train(first, stop, size, lead, seed)
    again = make(name, rows, **settings)
    again.bind(size, lead, torch.device("cpu"))
    assert again.load_state_dict(passed_on(first.state_dict())) == ""
    assert before + train(again, 14 - stop, size, lead, seed) == whole


@given(setups(), st.integers(2, 4))
@fuzz(0.05, quick=100)
def test_ranks_share_one_stream_of_draws(setup: tuple[Any, ...], world: int) -> None:
    """Each has its share of every chunk, no row of it twice, and all together have what one rank would have drawn."""
    name, rows, size, settings, seed = setup
    settings = {**settings, "num_samples": world * max(1, settings.get("num_samples", rows) // world)}
    if (alone := made(name, rows, settings)) is None:
        return
    alone.bind(size * world, 0, torch.device("cpu"))
    ranks = [make(name, rows, **settings) for _ in range(world)]
    streams: list[Any] = []
    for number, sampler in enumerate(ranks):
        with on_rank(number, world):
            sampler.bind(size, 0, torch.device("cpu"))
            streams.append(iter(sampler))
    one = iter(alone)
    for step in range(4):
        expected, shares = list(itertools.islice(one, size * world)), []
        for number, (sampler, stream) in enumerate(zip(ranks, streams, strict=True)):
            with on_rank(number, world):
                shares.append(list(itertools.islice(stream, size)))
                sampler.arrived(shares[-1])
        assert shares == [expected[number::world] for number in range(world)]
        if not expected:
            return
        alone.arrived(expected)
        ids, signals = signals_of([row for share in shares for row in share], seed + step)
        for number, sampler in enumerate((*ranks, alone)):
            with on_rank(number % world, world if number < world else 1):
                sampler.observe(ids, signals)
