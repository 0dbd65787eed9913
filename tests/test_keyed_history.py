from __future__ import annotations

import copy
import io
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError, ConfigurationError, RowIdError
from lightning_select.history import SampleHistory
from lightning_select.keyed_history import KeyedHistory
from tests.test_history import ALL, NAN, Eager, Visit, close, enter, same_bits, visit_lists

KEYS = [7, -5, 2**40, 2**40 + 1, -(2**63), 2**63 - 1, 0]
UNSEEN = Eager(0.0, 0.0).row(0)
CAPACITY = 6  # as many as the visits of one step


class EagerKeyed(Eager):
    """The loop over all keys that are held; where there is no place left, the key seen longest ago goes."""

    def __init__(self, capacity: int, decay: float, forget: float) -> None:
        super().__init__(decay, forget)
        self.capacity, self.seen = capacity, {}

    def step(self, step: int, visits: list[Visit]) -> None:
        now = {visit["id"] for visit in visits} - {-1}
        while len(self.rows.keys() | now) > self.capacity:
            oldest = min(self.rows.keys() - now, key=lambda key: (self.seen[key], key))
            del self.rows[oldest]
        self.seen.update(dict.fromkeys(now, step))
        super().step(step, visits)


@given(steps=visit_lists(st.sampled_from([-1, *KEYS])))
def test_it_is_the_loop_over_the_keys_that_are_held(steps: list[list[Visit]]) -> None:
    eager = EagerKeyed(CAPACITY, decay=0.75, forget=0.9)
    history = KeyedHistory(CAPACITY, columns=ALL, decay=0.75, forget=0.9)
    everyone = torch.tensor(KEYS)
    for step, visits in enumerate(steps):
        eager.step(step, visits)
        enter(history, step, visits)
        assert len(history) == len(eager.rows)
        read = {name: history.read(name, everyone).tolist() for name in UNSEEN}
        successes, failures = (part.tolist() for part in history.beta(everyone, step + 1))
        for place, key in enumerate(KEYS):
            expected = eager.rows.get(key, UNSEEN)
            for name in ("count", "last_step", "last_correct", "forgettings"):
                assert read[name][place] == expected[name], name
            for name in ("last_loss", "ema_loss"):
                assert close(read[name][place], expected[name], 1e-6), name
            assert close(successes[place], expected["successes"], 1e-12)
            assert close(failures[place], expected["failures"], 1e-12)


@given(steps=visit_lists(st.sampled_from([-1, *KEYS])), data=st.data())
def test_the_order_of_the_rows_does_not_matter(steps: list[list[Visit]], data: Any) -> None:
    one, other = (KeyedHistory(CAPACITY, columns=ALL, forget=0.9) for _ in range(2))
    for step, visits in enumerate(steps):
        enter(one, step, visits)
        enter(other, step, data.draw(st.permutations(visits)))
    assert same_bits(one, other)


def saw(history: KeyedHistory, *keys: int, step: int = 0) -> None:
    history.update(torch.tensor(keys), step, loss=torch.tensor([float(key) for key in keys]))


def held(history: KeyedHistory, *keys: int) -> list[bool]:
    return [slot >= 0 for slot in history.slots(torch.tensor(keys)).tolist()]


def test_the_key_seen_longest_ago_goes_first() -> None:
    history = KeyedHistory(3)
    saw(history, 9, 5, 7)
    saw(history, 5, step=1)
    saw(history, 8, step=2)  # of 7 and 9, seen in the same step, the smaller one goes
    assert held(history, 5, 7, 8, 9) == [True, False, True, True]
    saw(history, 6, 9, step=3)
    assert held(history, 5, 6, 8, 9) == [False, True, True, True]
    saw(history, 7, step=4)
    assert history.read("count", torch.tensor([7])).tolist() == [1]  # it came back as a stranger


def test_of_keys_of_one_step_the_smaller_goes_first_whether_known_or_new() -> None:
    history = KeyedHistory(2)
    saw(history, 5)
    saw(history, 3, 5, step=1)
    saw(history, 9, step=2)
    assert held(history, 3, 5, 9) == [False, True, True]


def test_padding_is_ignored_whatever_comes_with_it() -> None:
    history = KeyedHistory(1, columns=("success",))
    nothing = torch.tensor([NAN, 1.0, NAN])
    history.update(torch.tensor([-1, 4, -1]), 0, successes=nothing, failures=nothing, keep=nothing)
    assert len(history) == 1
    assert [part.tolist() for part in history.beta(torch.tensor([4, -1]), 1)] == [[1.0, 0.0]] * 2


def test_reading_a_key_does_not_keep_it() -> None:
    history = KeyedHistory(2)
    saw(history, 1)
    saw(history, 2, step=1)
    history.read("count", torch.tensor([1]))
    saw(history, 3, step=2)
    assert held(history, 1, 2, 3) == [False, True, True]


def test_it_shows_what_a_history_shows_by_slot() -> None:
    history = KeyedHistory(4, columns=ALL, decay=0.5, forget=0.9)
    assert (history.rows, history.columns, history.decay, history.forget) == (4, ALL, 0.5, 0.9)
    assert history.device.type == "cpu"
    assert history.nbytes == SampleHistory(4, columns=ALL).nbytes
    saw(history, 40, 30)
    slots = history.slots(torch.tensor([30, 40, 50, -1]))
    assert slots.tolist() == [0, 1, -1, -1]
    assert history.seen.tolist() == [True, True, False, False]
    assert history.ema_loss[slots[:2]].tolist() == [30.0, 40.0]
    assert history.to("cpu") is history
    with pytest.raises(AttributeError, match="got 'ema', which keeps count"):
        _ = history.ema


def test_it_resumes_bit_for_bit() -> None:
    steps = [(torch.randint(0, 60, (20,)), torch.rand(20)) for _ in range(10)]

    def go(history: KeyedHistory, begin: int, end: int) -> KeyedHistory:
        for step in range(begin, end):
            ids, loss = steps[step]
            history.update(ids, step, loss=loss, correct=loss)
        return history

    half = go(KeyedHistory(25, columns=ALL), 0, 5)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    resumed = KeyedHistory(25, columns=ALL)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(half)
    assert same_bits(go(half, 5, 10), go(resumed, 5, 10))
    assert same_bits(go(twin, 5, 10), resumed)


def test_it_holds_its_statistics_on_a_device() -> None:
    history = KeyedHistory(3, device="meta")
    saw(history, 1, 2)
    assert history.slots(torch.tensor([1])).device.type == "meta"


TWO = torch.ones(2)
CALLS = [
    ({"ids": torch.tensor([3, 4, 5, 6])}, ArgumentError, r"number of keys in a step \(4\), got 3."),
    (
        {"ids": TWO},
        RowIdError,
        r"KeyedHistory.keys must be a list of whole numbers, got torch.float32 of shape \(2,\).",
    ),
    ({"loss": torch.ones(3)}, ArgumentError, r"must be given loss of shape \(2,\), one per id, got \(3,\)."),
    ({"ids": [1, 2]}, RowIdError, "KeyedHistory.keys must be a tensor, got list. Write torch.tensor"),
    ({"step": -1}, ArgumentError, "SampleHistory.step must be in"),
    ({"correct": TWO}, ArgumentError, "columns must hold 'forgetting' to take correct"),
    ({"successes": TWO, "failures": TWO * NAN}, ArgumentError, "failures must be finite and not negative, got nan."),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CALLS)
def test_wrong_updates_change_nothing(
    arguments: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    history = KeyedHistory(3, columns=("loss", "success"))
    saw(history, 1, 2)
    before = copy.deepcopy(history)
    with pytest.raises(error, match=message):
        history.update(**{"ids": torch.tensor([3, 4]), "step": 1, **arguments})
    assert same_bits(history, before)


@pytest.mark.parametrize("capacity", [0, True])
def test_wrong_capacity(capacity: int) -> None:
    with pytest.raises(
        ArgumentError, match=f"KeyedHistory.capacity must be a whole number, at least 1, got {capacity}."
    ):
        KeyedHistory(capacity)


def test_a_state_that_does_not_fit() -> None:
    history = KeyedHistory(3)
    with pytest.raises(ConfigurationError, match=r"KeyedHistory.capacity must be that of the state \(4\), got 3."):
        history.load_state_dict(KeyedHistory(4).state_dict())
    with pytest.raises(ConfigurationError, match="must be given a state with keys and slots, got count, last_step"):
        history.load_state_dict(SampleHistory(3).state_dict())
    with pytest.raises(ConfigurationError, match="columns must be those of the state: count, last_step, got count,"):
        history.load_state_dict(KeyedHistory(3, columns=()).state_dict())
    with pytest.raises(ConfigurationError, match="SampleHistory.columns must be those of the state: keys, slots"):
        SampleHistory(3).load_state_dict(history.state_dict())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"count": None}, r"SampleHistory.columns must be those of the state: last_step"),
        ({"keys": torch.tensor([1, 2])}, r"state.slots .* must be the first 2, one for each key, got \[0\]"),
        ({"keys": torch.tensor([1, 2]), "slots": torch.tensor([0, 0])}, r"state.slots .* got \[0, 0\]"),
        ({"keys": torch.tensor([1, 2]), "slots": torch.tensor([0, 7])}, r"state.slots .* got \[0, 7\]"),
        ({"keys": torch.arange(4), "slots": torch.arange(4)}, "state.keys .* at most 3 different keys, got 4"),
        ({"keys": torch.tensor([1, 1]), "slots": torch.arange(2)}, "state.keys .* at most 3 different keys, got 2"),
        ({"keys": torch.tensor([-1])}, "state.keys .* at most 3 different keys, got 1"),
        ({"keys": torch.tensor([0.5])}, "state.keys .* must be a tensor of whole numbers"),
        ({"slots": [0]}, "state.slots .* must be a tensor of whole numbers"),
    ],
)
def test_a_damaged_state_is_refused_whole(changes: dict[str, Any], told: str) -> None:
    history = KeyedHistory(3)
    history.update(torch.tensor([5]), 0, loss=torch.tensor([1.0]))
    state = {name: one for name, one in (history.state_dict() | changes).items() if one is not None}
    with pytest.raises(ConfigurationError, match=told):
        history.load_state_dict(state)
    assert history.read("last_loss", torch.tensor([5, 1, 2])).nan_to_num(-1).tolist() == [1.0, -1.0, -1.0]
