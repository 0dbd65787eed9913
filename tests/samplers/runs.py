"""Runs of a sampler without a model: rows go out, observations about them come back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_select.samplers.base import OnlineSampler

__all__ = ["at", "chi_square", "generator", "go_on_alike", "losses_of", "saved"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(*numbers: int) -> Tensor:
    """Row ids."""
    return torch.tensor(numbers, dtype=torch.int64)


def chi_square(observed: Tensor, chances: Tensor) -> float:
    """By how many standard deviations counts differ from what the chances expect; none where there is no chance."""
    chances = chances.double() / chances.sum()
    assert observed[chances == 0].sum() == 0
    observed, chances = observed[chances > 0].double(), chances[chances > 0]
    expected = chances * observed.sum()
    freedom = len(expected) - 1
    return float((((observed - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


def saved(sampler: OnlineSampler) -> dict[str, Any]:
    """The state of a sampler, on its way through a file."""
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def losses_of(ids: Tensor, step: int) -> dict[str, Tensor]:
    """What a model might say about rows at a step."""
    return {"loss": ((ids.clamp(min=0) * 37 + step * 11) % 19).float() / 4}


def batches(sampler: OnlineSampler, size: int) -> Iterator[list[int]]:
    """Batches without end, epoch after epoch, closed as a Trainer would."""
    while True:
        rows: list[int] = []
        for one in sampler:
            rows.append(one)
            if len(rows) == size:
                yield rows
                rows = []
        if rows:
            yield rows
        sampler.close_epoch()


def train(
    sampler: OnlineSampler,
    stream: Iterator[list[int]],
    steps: Sequence[int],
    signals: Callable[[Tensor, int], Mapping[str, Tensor]] = losses_of,
) -> list[list[int]]:
    """Train for some steps; the rows of each."""
    drawn = []
    for step in steps:
        rows = next(stream)
        sampler.arrived(rows)
        ids = torch.tensor(rows)
        sampler.observe(ids, signals(ids, step))
        drawn.append(rows)
    return drawn


def go_on_alike(
    make: Callable[[], OnlineSampler],
    *,
    size: int = 4,
    before: int = 5,
    after: int = 30,
    signals: Callable[[Tensor, int], Mapping[str, Tensor]] = losses_of,
) -> list[list[int]]:
    """Stop after some batches, resume in a new sampler, and check that both go on alike; what they draw."""
    first = bound(make(), size)
    stream = batches(first, size)
    train(first, stream, range(before), signals)
    second = bound(make(), size)
    assert second.load_state_dict(saved(first)) == ""
    steps = range(before, before + after)
    resumed = train(second, batches(second, size), steps, signals)
    gone_on = train(first, stream, steps, signals)
    assert resumed == gone_on
    return gone_on


def bound(sampler: OnlineSampler, size: int) -> OnlineSampler:
    """As a Trainer does."""
    sampler.bind(size, 0, torch.device("cpu"))
    return sampler
