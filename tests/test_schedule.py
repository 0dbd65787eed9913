from __future__ import annotations

import dataclasses
import math

import pytest

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.schedule import Anneal, Schedule, resolve


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (Schedule(), range(10)),
        (Schedule(start=3), range(3, 10)),
        (Schedule(start=3, stop=6), (3, 4, 5)),
        (Schedule(start=2, every=3), (2, 5, 8)),
        (Schedule(start=0.5), range(5, 10)),
        (Schedule(start=0.2, stop=0.4), (2, 3)),
        (Schedule(stop=1.0), range(10)),
        (Schedule(start=1, stop=0.5, every=2), (1, 3)),
        (Schedule(start=1.0), ()),
    ],
)
def test_active_steps(schedule: Schedule, steps) -> None:
    assert [step for step in range(10) if schedule.active(step, 10)] == list(steps)


def test_steps_need_no_length_and_fractions_do() -> None:
    assert Schedule(start=3).active(5, None)
    assert not Schedule(start=3).needs_total
    assert Schedule(stop=0.5).needs_total
    with pytest.raises(ConfigurationError, match=r"Schedule.start must be a step .*, got the fraction 0.5"):
        Schedule(start=0.5).active(5, None)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"start": -1}, "Schedule.start must not be negative, got -1"),
        ({"start": 1.5}, r"Schedule.start must be in \[0, 1\] as a fraction of training, got 1.5. A step is an int"),
        ({"start": True}, "Schedule.start must be a step"),
        ({"start": "soon"}, "got 'soon'"),
        ({"start": math.nan}, "got nan"),
        ({"start": 5, "stop": 5}, r"Schedule.stop must be after Schedule.start \(5\), got 5"),
        ({"start": 0.5, "stop": 0.2}, "got 0.2"),
        ({"every": 0}, "Schedule.every must be a whole number of steps, at least 1, got 0"),
        ({"every": 1.5}, "got 1.5"),
    ],
)
def test_schedules_that_make_no_sense(kwargs, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=message):
        Schedule(**kwargs)


@pytest.mark.parametrize(
    ("anneal", "values"),
    [
        (Anneal(1.0, 0.0), {0: 1.0, 50: 0.5, 100: 0.0, 200: 0.0}),
        (Anneal(1.0, 0.2, stop=0.5), {0: 1.0, 25: 0.6, 50: 0.2, 99: 0.2}),
        (Anneal(0.0, 1.0, start=10, stop=20), {0: 0.0, 10: 0.0, 15: 0.5, 20: 1.0}),
        (Anneal(10.0, 0.1, shape="exponential"), {0: 10.0, 50: 1.0, 100: 0.1}),
        (Anneal(1.0, 0.0, shape="cosine"), {0: 1.0, 25: (1 + math.sqrt(0.5)) / 2, 50: 0.5, 100: 0.0}),
        (Anneal(3.0, 3.0, start=0, stop=1), {0: 3.0, 1: 3.0}),
    ],
)
def test_values_that_move(anneal: Anneal, values: dict[int, float]) -> None:
    for step, value in values.items():
        assert anneal.at(step, 100) == pytest.approx(value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"begin": math.inf, "end": 1.0}, "Anneal.begin must be a finite number, got inf"),
        ({"begin": 1.0, "end": "low"}, "Anneal.end must be a finite number, got 'low'"),
        ({"begin": 1.0, "end": 2.0, "shape": "square"}, "Anneal.shape must be one of .*, got 'square'"),
        ({"begin": 0.0, "end": 2.0, "shape": "exponential"}, "must be positive for an exponential, got 0.0, 2.0"),
        ({"begin": 1.0, "end": 2.0, "start": 5, "stop": 3}, r"Anneal.stop must be after Anneal.start \(5\), got 3"),
    ],
)
def test_anneals_that_make_no_sense(kwargs, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Anneal(**kwargs)


def test_fields_of_a_method_move_with_the_steps() -> None:
    @dataclasses.dataclass(frozen=True)
    class Method:
        temperature: float | Anneal
        other: int = 3

    assert resolve(Method(Anneal(1.0, 0.0)), 25, 100) == Method(0.75)
    fixed = Method(0.4)
    assert resolve(fixed, 25, 100) is fixed
    assert resolve(Anneal(1.0, 0.0), 25, 100) == 0.75
    assert resolve(0.3, 25, 100) == 0.3
