from __future__ import annotations

import inspect
import math
import pickle
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.reward import Scorer
from lightning_select.rollouts.rewards.exact_answer import ExactAnswer, exact_answer
from lightning_select.rollouts.rewards.number_answer import NumberAnswer, number_answer, read_number

CONFIGS = Path(__file__).parents[2] / "configs" / "rollouts" / "reward"


def scored(reward: Any, completions: list[str], answers: Any, key: str = "answer") -> list[float]:
    return reward(["?"] * len(completions), completions, {key: answers})


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("19", "19", 1.0),
        (" 19\n", "19", 1.0),
        ("19", "19 ", 1.0),
        ("", "19", 0.0),
        ("  ", "19", 0.0),
        ("19.0", "19", 0.0),
        ("019", "19", 0.0),
        ("1", "19", 0.0),
        ("190", "19", 0.0),
        ("-5", "-5", 1.0),
        ("", "", 1.0),
    ],
)
def test_a_completion_is_the_answer_or_it_is_not(completion, answer, expected) -> None:
    assert scored(ExactAnswer(), [completion], [answer]) == [expected]


def test_a_part_is_given_for_right_places() -> None:
    given, answer = ["12345", "123", "1234567890", "x2345", "", "54321"], "12345"
    expected = []
    for completion in given:
        right = 0
        for place in range(len(answer)):
            if place < len(completion) and completion[place] == answer[place]:
                right += 1
        longer = len(completion) if len(completion) > len(answer) else len(answer)
        expected.append(1.0 if completion == answer else 0.4 * right / longer)
    assert scored(ExactAnswer(partial=0.4), given, [answer] * 6) == pytest.approx(expected)
    assert exact_answer(given, [answer] * 6, partial=0.4) == pytest.approx(expected)
    assert expected[:3] == pytest.approx([1.0, 0.24, 0.2])


@pytest.mark.parametrize("partial", [0.0, 0.5, 1.0])
def test_only_the_answer_itself_gets_all(partial) -> None:
    rewards = scored(ExactAnswer(partial=partial), ["12", "1", "123", ""], ["12"] * 4)
    assert rewards[0] == 1
    assert max(rewards[1:]) < 1


@pytest.mark.parametrize("answers", [[19, 20], (19, 20), torch.tensor([19, 20]), ["19", "20"]])
@pytest.mark.parametrize("reward", [ExactAnswer(), NumberAnswer()])
def test_answers_may_be_numbers(reward, answers) -> None:
    assert scored(reward, ["19", "19"], answers) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 72", 72),
        ("48/2 = 24\n48+24 = 72\n#### 72", 72),
        ("####72 clips", 72),
        ("#### 72\n\nQuestion: And 3 more?\nAnswer: 75\n#### 75", 72),
        ("#### none\n#### 7", 7),
        ("it is 3, so the answer is 5 in 2 boxes", 5),
        ("The Answer is: \\boxed{8}.", 8),
        ("the answer is\n\n 5 apples", 5),
        ("the answer is 5\n#### 6", 6),
        ("the answer is unknown, \\boxed{9}, not 10", 9),
        ("so \\boxed{x = 3}. See page 7", 3),
        ("\\boxed{\\frac{1}{2}} of 8", Fraction(1, 2)),
        ("\\boxed{\\text{about } 12} of 8", 12),
        ("\\boxed{4", 4),
        ("3 + 4 = 7", 7),
        ("3 + 4 = 7 (and not 8).", 8),
        ("10-5=5", 5),
        ("8-3", 3),
        ("8 -3", -3),
        ("=-3", -3),
        ("(\N{MINUS SIGN}4)", -4),
        ("-$5", -5),
        ("$-5", -5),
        ("$5", 5),
        ("$5$", 5),
        ("\\$1,250.50", Fraction("1250.5")),
        ("\N{EURO SIGN}7", 7),
        ("5%", 5),
        ("0.05", Fraction(5, 100)),
        ("1,000", 1000),
        ("1,000,000", 1000000),
        ("1{,}000", 1000),
        ("3,4", 4),
        ("1000.0", 1000),
        ("0.30", Fraction(3, 10)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("2e3", 2000),
        ("2E-1", Fraction(1, 5)),
        ("2 eggs", 2),
        ("6/8", Fraction(3, 4)),
        ("**7**", 7),
        ("_7_", 7),
        ("007", 7),
        ("7 x2 H2O", 7),
        ("7 v1.2.3", 7),
        ("5/0", None),
        ("", None),
        ("no number", None),
        ("nan inf", None),
        ("-", None),
        ("9" * 5000, None),
        ("7 and " + "9" * 5000, 7),
    ],
)
def test_a_number_is_read_where_solutions_put_it(text, expected) -> None:
    assert read_number(text) == expected


@pytest.mark.parametrize("noise", ["\\boxed{" * 2000, "####" * 5000, "1," * 10000, "answer is " * 3000, "- $" * 9000])
def test_noise_is_read_in_no_time(noise) -> None:
    assert read_number(noise + " and 3") == 3


def test_numbers_are_compared_as_numbers() -> None:
    completions = ["1,000", "1000.0", "1e3", "$1000", "1000%", "1,001", "", "nan"]
    rewards = scored(NumberAnswer(), completions, ["1000"] * 8)
    assert rewards == [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert all(math.isfinite(one) for one in rewards)
    assert number_answer(completions, [Fraction(1000)] * 8) == rewards
    assert scored(NumberAnswer(), ["0.1", "0.10000000000000001", "1/10"], [0.1] * 3) == [1.0, 0.0, 1.0]


def test_an_answer_may_be_a_whole_solution() -> None:
    assert scored(NumberAnswer(), ["It is 72"], ["48+24 = 72 of 3\n#### 72"]) == [1.0]


def test_a_pattern_asks_for_a_form() -> None:
    strict = NumberAnswer(pattern=r"####\s*(\S+)")
    assert scored(strict, ["#### 7", "7", "the answer is 7", "#### x\n#### 7"], ["7"] * 4) == [1.0, 0.0, 0.0, 1.0]
    optional = NumberAnswer(pattern=r"so(?: (\d+))?")
    assert scored(optional, ["so", "so 7"], ["7"] * 2) == [0.0, 1.0]
    assert scored(strict, ["#### 7"], ["it is 7"]) == [1.0]  # answers of the batch are read at the usual places


@pytest.mark.parametrize("name", ["ExactAnswer", "NumberAnswer"])
@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"solution": ["1"]}, r"{}\.key must name an entry of the batch, got 'answer' and a batch of solution\."),
        ({}, r"{}\.key must name an entry of the batch, got 'answer' and a batch of nothing\."),
        ({"answer": ["1", "2"]}, r"{}\.answer must hold one answer for each of 1 completions, got 2\."),
        ({"answer": "1"}, r"{}\.answer must hold one answer for each of 1 completions, got '1'\."),
        ({"answer": [None]}, r"{}\.answer must hold texts or numbers, got None for completion 0\."),
        ({"answer": [["1"]]}, r"{}\.answer must hold texts or numbers, got \['1'\] for completion 0\."),
    ],
)
def test_a_batch_without_answers_is_told(name, batch, told) -> None:
    reward = {"ExactAnswer": ExactAnswer, "NumberAnswer": NumberAnswer}[name]()
    with pytest.raises(ArgumentError, match=told.format(name)):
        reward(["?"], ["1"], batch)


def test_an_answer_without_a_number_is_told() -> None:
    with pytest.raises(ArgumentError, match=r"NumberAnswer\.truth must hold numbers, got 'seven'"):
        scored(NumberAnswer(key="truth"), ["7", "7"], ["7", "seven"], key="truth")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ExactAnswer(partial=1.5), r"ExactAnswer\.partial must be in \[0, 1\], got 1\.5"),
        (lambda: ExactAnswer(partial=math.nan), r"ExactAnswer\.partial must be in \[0, 1\], got nan"),
        (lambda: ExactAnswer(partial=True), r"ExactAnswer\.partial must be in \[0, 1\], got True"),
        (lambda: ExactAnswer(partial="half"), r"ExactAnswer\.partial must be in \[0, 1\], got 'half'"),  # type: ignore[arg-type]
        (lambda: NumberAnswer(pattern="(7"), r"NumberAnswer\.pattern must be a regular expression, got '\(7': "),
        (lambda: NumberAnswer(pattern=7), r"NumberAnswer\.pattern must be a regular expression, got 7: "),  # type: ignore[arg-type]
        (lambda: NumberAnswer(pattern="7"), r"NumberAnswer\.pattern must have a group around the number, got '7'"),
    ],
)
def test_values_are_checked(make, told, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        make()


@pytest.mark.parametrize("reward", [ExactAnswer("truth", 0.5), NumberAnswer("truth", "(7)")])
def test_a_reward_is_frozen_and_can_be_sent(reward) -> None:
    assert pickle.loads(pickle.dumps(reward)) == reward
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'key'"):
        reward.key = "answer"


@pytest.mark.parametrize("reward", [ExactAnswer(), NumberAnswer()])
def test_no_completion_is_no_reward(reward) -> None:
    assert reward([], [], {"answer": []}) == []


def test_a_wrong_answer_of_the_data_spoils_no_other_row() -> None:
    with pytest.warns(UserWarning, match="NumberAnswer failed for 1 of 2 completions"):
        rewards = Scorer(NumberAnswer())(["?"] * 2, ["7", "7"], {"answer": ["7", "seven"]})
    assert rewards.isnan().tolist() == [False, True]
    assert rewards[0] == 1


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_config_lists_every_field_at_its_default(file) -> None:
    config: Any = OmegaConf.load(file)
    made = get_class(config._target_)
    assert made.__module__.rpartition(".")[2] == file.stem
    parameters = inspect.signature(made).parameters
    assert {name: value for name, value in config.items() if name != "_target_"} == {
        name: parameter.default for name, parameter in parameters.items()
    }
