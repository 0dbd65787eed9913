from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_select.errors import ArgumentError, ShortfallError
from lightning_select.rollouts.balanced import Balanced
from lightning_select.rollouts.counters import Counters
from lightning_select.rollouts.groups import Group, join
from lightning_select.rollouts.policy import Attempts
from lightning_select.rollouts.refill import Refill, RefillBuffer
from lightning_select.rollouts.relaxing import relaxed

pytestmark = pytest.mark.filterwarnings("ignore:Only .* groups passed")


def group(number: int, rewards: list[float] | None = None, born: int = 0) -> Group:
    values = torch.tensor(rewards or [1.0, 0.0])
    rows = len(values)
    tokens = torch.full((rows, 1), number)
    mask = torch.ones(rows, 1, dtype=torch.bool)
    attempts = Attempts(tokens, mask, tokens, mask, torch.zeros(rows, 1), mask[:, 0], ("x",) * rows)
    return Group(str(number), attempts, values, values, values >= 0, born, (number, 0))


def buffer(relax: Any = None, **arguments: Any) -> RefillBuffer:
    return RefillBuffer(Refill(**arguments), Counters(), relax)


def names(groups: list[Group]) -> list[str]:
    return [one.prompt for one in groups]


def fill(held: RefillBuffer, *rounds: list[Group], prompts: int = 3, last: bool = False) -> list[Group]:
    """Rounds until an update is due, and what it gets."""
    for number, kept in enumerate(rounds):
        held.begin(prompts)
        held.add(kept)
        due = held.is_due(last=last and number == len(rounds) - 1)
        assert due == (number == len(rounds) - 1)
    return held.take(last=last)


def test_rounds_go_on_until_there_are_enough() -> None:
    held = buffer()
    assert names(fill(held, [group(0)], [], [group(2), group(1)])) == ["0", "1", "2"]
    assert held.rounds == 0
    assert held.counters.trained == 3
    assert not held.waiting


def test_the_number_is_that_of_the_first_round_unless_it_is_given() -> None:
    held = buffer()
    held.begin(7)
    assert held.missing == 7
    held.begin(5)
    assert held.missing == 7
    given = buffer(groups=2)
    given.begin(7)
    assert given.missing == 2


def test_one_round_takes_what_there_is() -> None:
    held = buffer(max_rounds=1)
    assert names(fill(held, [group(0), group(1)], prompts=3)) == ["0", "1"]
    assert names(fill(held, [group(n) for n in range(4)], prompts=4)) == ["0", "1", "2", "3"]
    assert held.counters.short == 0


def test_too_few_are_trained_on_with_a_word(recwarn: pytest.WarningsRecorder) -> None:
    held = buffer(max_rounds=2)
    for _ in range(2):
        assert names(fill(held, [group(0)], [])) == ["0"]
    assert held.counters.short == 2
    told = [str(one.message) for one in recwarn if "groups passed" in str(one.message)]
    assert len(told) == 1
    assert "Only 1 of 3 groups passed the filter within max_rounds=2 rounds" in told[0]


def test_or_are_an_error_that_loses_nothing() -> None:
    held = buffer(max_rounds=2, on_shortfall="raise")
    with pytest.raises(ShortfallError, match="max_rounds=2 rounds of prompts must give 3 groups .* got 1"):
        fill(held, [group(0)], [])
    assert names(held.waiting) == ["0"]


def test_what_was_accepted_is_trained_on_when_no_round_follows() -> None:
    held = buffer(on_shortfall="raise")
    assert names(fill(held, [group(0)], [group(1)], last=True)) == ["0", "1"]


def test_groups_of_the_update_before_fill_up() -> None:
    held = buffer(max_rounds=1, groups=3, on_shortfall="repeat_last_good")
    assert names(fill(held, [group(0), group(1), group(2)])) == ["0", "1", "2"]
    assert names(fill(held, [group(3)])) == ["3", "0", "1"]
    assert held.counters.repeated == 2
    assert fill(held, []) == []  # nothing new: it would go over the same groups again and again
    assert names(fill(held, [group(5)])) == ["5", "3"]


def test_surplus_is_dropped_or_carried_as_long_as_it_is_young() -> None:
    dropping = buffer(groups=2)
    fill(dropping, [group(0), group(1), group(2)])
    assert dropping.counters.dropped == 1
    carrying = buffer(groups=2, surplus="carry", max_age=1, max_rounds=1)
    assert names(fill(carrying, [group(n) for n in range(6)])) == ["0", "1"]
    carrying.counters.add(updates=1)
    assert names(fill(carrying, [group(9, born=1)])) == ["2", "3"]
    carrying.counters.add(updates=1)  # 4 and 5 are two updates behind by now
    assert names(fill(carrying, [])) == ["9"]
    assert carrying.counters.dropped == 2


def test_groups_that_are_too_old_are_not_counted_on() -> None:
    held = buffer(groups=2, surplus="carry", max_age=1, max_rounds=4)
    assert names(fill(held, [group(n) for n in range(5)])) == ["0", "1"]
    held.counters.add(updates=2)  # those that were carried are two updates behind
    assert names(fill(held, [group(5, born=2)], [group(6, born=2)])) == ["5", "6"]
    assert held.counters.dropped == 3
    assert held.counters.short == 0


def test_a_band_is_widened_until_enough_pass() -> None:
    band = Balanced(0.5, 0.5)
    held = buffer(relaxed(band, 4), groups=3, max_rounds=1, on_shortfall="relax_band")
    rejected = [group(n, rewards) for n, rewards in ((1, [1.0, 0, 0, 0]), (2, [0.0] * 4), (3, [1.0, 1, 1, 0]))]
    held.begin(3)
    held.add([group(0, [1.0, 1, 0, 0])], rejected)
    assert names(held.take()) == ["0", "1", "3"]
    held.begin(3)
    held.add([], [group(4, [1.0] * 4)])
    assert held.take() == []  # groups without variance teach nothing, however wide the band


def test_what_passed_only_because_the_band_was_widened_is_not_carried() -> None:
    band = Balanced(0.5, 0.5)
    held = buffer(relaxed(band, 4), groups=2, max_rounds=1, on_shortfall="relax_band", surplus="carry", max_age=5)
    held.begin(3)
    held.add([group(9, [1.0, 1, 0, 0])], [group(n, [1.0, 1, 1, 0]) for n in range(3)])
    assert names(held.take()) == ["9", "0"]
    assert held.waiting == []
    assert held.counters.dropped == 0


def test_fillings_with_nothing_are_counted_in_a_row() -> None:
    held = buffer(max_rounds=1, patience=2)
    fill(held, [])
    assert not held.starved
    fill(held, [group(0)])
    fill(held, [])
    assert not held.starved
    fill(held, [])
    assert held.starved


def test_the_state_is_that_of_the_middle_of_a_filling() -> None:
    held = buffer(groups=3, surplus="carry")
    held.begin(3)
    held.add([group(0, [1.0, 0.0, 0.5])])
    other = buffer(groups=3, surplus="carry")
    other.load_state_dict(held.state_dict())
    assert names(fill(other, [group(1), group(2)])) == ["0", "1", "2"]
    one, two = held.waiting[0], Group.from_state(held.waiting[0].state_dict())
    assert (one.prompt, one.born, one.place, one.attempts.texts) == (
        two.prompt,
        two.born,
        two.place,
        two.attempts.texts,
    )
    for name, tensor in one.attempts.tensors().items():
        assert torch.equal(tensor, getattr(two.attempts, name))


def test_attempts_are_joined_at_the_width_of_the_widest() -> None:
    wide = torch.tensor([[1, 2, 3]])
    there = torch.ones(1, 3, dtype=torch.bool)
    parts = [
        Attempts(wide, there, wide, there, wide.float(), there[:, 0], ("long",)),
        Attempts(wide[:, :1], there[:, :1], wide[:, :2], there[:, :2], wide[:, :2].float(), there[:, 0], ("short",)),
    ]
    both = join(parts)
    assert both.prompt_tokens.tolist() == [[1, 2, 3], [0, 0, 1]]
    assert both.prompt_mask.tolist() == [[True] * 3, [False, False, True]]
    assert both.tokens.tolist() == [[1, 2, 3], [1, 2, 0]]
    assert both.mask.tolist() == [[True] * 3, [True, True, False]]
    assert both.texts == ("long", "short")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 0}, "Refill.groups must be a whole number of at least 1, got 0"),
        ({"max_rounds": 1.5}, "Refill.max_rounds must be a whole number of at least 1, got 1.5"),
        ({"max_age": True}, "Refill.max_age must be a whole number of at least 1, got True"),
        ({"patience": -1}, "Refill.patience must be a whole number of at least 1, got -1"),
        ({"on_shortfall": "ignore"}, "Refill.on_shortfall must be one of raise, .*, got 'ignore'"),
        ({"surplus": "keep"}, "Refill.surplus must be one of drop, carry, got 'keep'"),
        ({"replacement": "now"}, "Refill.replacement must be one of round, at_once, got 'now'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Refill(**arguments)
