from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_select.errors import RewardError
from lightning_select.rollouts.reward import Scorer, repeated

PROMPTS, TEXTS = ["p", "p", "q"], ["one", "two", "three"]


def score(returned: Any) -> list[float]:
    return Scorer(lambda prompts, completions, batch: returned)(PROMPTS, TEXTS, {}).tolist()


@pytest.mark.parametrize(
    "returned",
    [[1, 0.5, 0], (1.0, 0.5, 0.0), torch.tensor([1.0, 0.5, 0.0]), np.array([1.0, 0.5, 0.0]), [np.float32(1), 0.5, 0]],
)
def test_numbers_of_any_kind(returned: Any) -> None:
    assert score(returned) == [1.0, 0.5, 0.0]


def test_right_and_wrong_are_one_and_zero() -> None:
    assert score([True, False, True]) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("nothing", [math.nan, None, torch.tensor(math.nan)])
def test_what_cannot_be_scored_does_not_count(nothing: Any) -> None:
    assert [math.isnan(value) for value in score([1.0, nothing, 0.0])] == [False, True, False]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], "one number for each of 3 completions, got 2"),
        (1.0, "one number for each of 3 completions, got 1.0"),
        ("yes", "one number for each of 3 completions, got 'yes'"),
        ({"a": 1}, "one number for each of 3 completions, got"),
        (["1", "2", "3"], "finite numbers .* got '1'"),
        ([1.0, math.inf, 0.0], "finite numbers .* got inf"),
        (torch.ones(3, 2), "finite numbers .* got"),
        (None, "one number for each of 3 completions, got None"),
        ([1.0, 1e39, math.nan], "numbers that float32 holds, got 1e\\+39"),
    ],
)
def test_anything_else_is_an_error(returned: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        score(returned)


def test_a_failure_for_one_completion_does_not_take_the_others_along(recwarn: pytest.WarningsRecorder) -> None:
    seen = []

    def reward(prompts: Any, completions: Any, batch: Any) -> list[float]:
        seen.append((list(prompts), list(batch["answer"])))
        return [1.0 / (len(text) - 5) for text in completions]

    scorer = Scorer(reward)
    for _ in range(2):
        found = scorer(PROMPTS, TEXTS, {"answer": ["a", "b", "c"], "all": 3}).tolist()
        assert found[:2] == [-0.5, -0.5]
        assert math.isnan(found[2])
    told = [str(one.message) for one in recwarn if "completions" in str(one.message)]
    assert len(told) == 1
    assert "reward failed for 1 of 3 completions" in told[0]
    assert "ZeroDivisionError" in told[0]
    assert seen[1:4] == [(["p"], ["a"]), (["p"], ["b"]), (["q"], ["c"])]


def test_a_failure_for_all_stops() -> None:
    def reward(prompts: Any, completions: Any, batch: Any) -> list[float]:
        raise KeyError("answers")

    with pytest.raises(RewardError, match="got KeyError for each of 3 completions") as caught:
        Scorer(reward)(PROMPTS, TEXTS, {})
    assert isinstance(caught.value.__cause__, KeyError)


def test_entries_with_rows_are_repeated() -> None:
    batch = {"text": ["a", "b"], "x": torch.tensor([[1.0], [2.0]]), "scale": 3.0, "other": torch.arange(5)}
    found = repeated(batch, 2, [0, 0, 1])
    assert found["text"] == ["a", "a", "b"]
    assert found["x"].tolist() == [[1.0], [1.0], [2.0]]
    assert found["scale"] == 3.0
    assert found["other"] is batch["other"]


def test_a_failure_for_all_of_one_prompt_is_looked_at_again() -> None:
    def reward(prompts: Any, completions: Any, batch: Any) -> list[float]:
        raise KeyError("answers")

    scorer = Scorer(reward)
    with pytest.warns(UserWarning, match="reward failed for 2 of 2 completions"):
        assert all(math.isnan(value) for _ in range(9) for value in scorer(["p", "p"], ["a", "b"], {}).tolist())
    with pytest.raises(RewardError, match="got KeyError for each of 2 completions"):
        scorer(["p", "p"], ["a", "b"], {})


def test_a_failure_for_all_together_and_none_alone_is_told_as_such() -> None:
    def reward(prompts: Any, completions: Any, batch: Any) -> list[float]:
        if len(prompts) > 1:
            raise ValueError("one at a time")
        return [1.0]

    with pytest.warns(UserWarning, match="reward failed for 3 completions together and for none alone"):
        assert Scorer(reward)(PROMPTS, TEXTS, {}).tolist() == [1.0] * 3
