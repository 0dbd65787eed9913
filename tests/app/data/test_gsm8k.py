from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from lightning_select.app.data.gsm8k import GSM8K, read_problems
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.rollouts.rewards.number_answer import NumberAnswer
from lightning_select.samplers.category_bandit import CategoryBandit

PROMPT = "Q: {question}\nA:"


def row(number: int, steps: int = 1) -> dict[str, str]:
    lines = [f"Line {step}: {step}+1=<<{step}+1={step + 1}>>{step + 1}" for step in range(steps)]
    return {"question": f"What is {number}? ", "answer": "\n".join([*lines, f"#### {number}"])}


def saved(path: Path, rows: list[Any]) -> str:
    text = "\n".join(json.dumps(one) for one in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.fixture
def folder(tmp_path) -> str:
    saved(tmp_path / "train.jsonl.gz", [row(number, 1 + number % 3) for number in range(20)])
    saved(tmp_path / "test.jsonl", [row(number) for number in range(100, 105)])
    return str(tmp_path)


def parts(data: GSM8K) -> dict[str, list[str]]:
    """Answers of each part."""
    data.setup("fit")
    data.setup("test")
    return {name: [rows[place]["answer"] for place in range(len(rows))] for name, rows in data._parts.items()}


def test_a_folder_has_its_own_test_file(folder) -> None:
    data = GSM8K(folder, template=PROMPT, batch_size=20)
    assert parts(data) == {
        "train": [str(number) for number in range(20)],
        "val": [str(number) for number in range(100, 105)],
        "test": [str(number) for number in range(100, 105)],
    }
    (batch,) = data.train_dataloader()
    assert list(batch) == ["prompt", "answer", "category", "id"]
    for place in range(20):
        number = int(batch["answer"][place])
        assert batch["prompt"][place] == f"Q: What is {number}?\nA:"
        assert batch["category"][place] == 1 + number % 3
        assert batch["id"][place] == number
    assert [one["answer"] for one in data.val_dataloader()] == [one["answer"] for one in data.test_dataloader()]


def test_rows_are_held_out_by_the_seed(folder) -> None:
    first, again, other = (parts(GSM8K(folder, held_out=0.25, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first["train"] + first["val"], key=int) == [str(number) for number in range(20)]
    assert [len(first[name]) for name in ("train", "val", "test")] == [15, 5, 5]
    assert first["test"] == [str(number) for number in range(100, 105)]


def test_a_single_file_validates_on_held_out_rows(tmp_path) -> None:
    found = parts(GSM8K(saved(tmp_path / "any.json", [row(number) for number in range(4)]), held_out=0.01))
    assert [len(found[name]) for name in ("train", "val", "test")] == [3, 1, 1]
    assert found["val"] == found["test"]


def test_a_test_file_may_be_named(folder, tmp_path) -> None:
    other = saved(tmp_path / "other.jsonl", [row(7)])
    assert parts(GSM8K(folder, other))["val"] == ["7"]
    assert parts(GSM8K(str(tmp_path / "train.jsonl.gz"), other))["test"] == ["7"]


def test_examples_come_first_with_their_solutions_and_are_not_trained_on(folder) -> None:
    data = GSM8K(folder, template=PROMPT, examples=2, held_out=0.25, seed=4)
    found = parts(data)
    everything = {str(number) for number in range(20)}
    shown = everything - {*found["train"], *found["val"]}
    assert len(shown) == 2
    for name in ("train", "val", "test"):
        for place, answer in enumerate(found[name]):
            *before, last = data._parts[name][place]["prompt"].split("Q: ")[1:]
            assert last == f"What is {answer}?\nA:"
            assert {text.split("?")[0].removeprefix("What is ") for text in before} == shown
            for text in before:
                number = int(text.split("?")[0].removeprefix("What is "))
                steps = "\n".join(f"Line {step}: {step}+1={step + 1}" for step in range(1 + number % 3))
                assert text == f"What is {number}?\nA: {steps}\n#### {number}\n\n"


def test_the_solutions_of_the_file_are_right(folder) -> None:
    problems = read_problems(f"{folder}/train.jsonl.gz")
    answers = {"answer": [one.answer for one in problems]}
    assert NumberAnswer()([""] * 20, [one.solution for one in problems], answers) == [1.0] * 20


@pytest.mark.parametrize(
    ("answer", "found"),
    [("#### 1,000", "1,000"), ("a\n#### -5 ", "-5"), (72, "72"), ("72", "72"), ("#### $5.50", "$5.50")],
)
def test_answers_are_taken_as_they_are_written(tmp_path, answer, found) -> None:
    path = saved(tmp_path / "rows.jsonl", [{"q": "?", "a": answer}])
    (problem,) = read_problems(path, question_key="q", answer_key="a")
    assert problem.answer == found


@pytest.mark.parametrize("answer", ["It is 72.", "#### seven", "#### 7 or 8", "72 ####"])
def test_an_answer_without_its_number_is_told_with_its_line(tmp_path, answer) -> None:
    path = saved(tmp_path / "rows.jsonl", [row(1), {"question": "?", "answer": answer}])
    with pytest.raises(ConfigurationError, match=r"answer in line 2 of .*rows\.jsonl must end in '#### number', got '"):
        read_problems(path)


def test_the_training_rows_are_drawn_by_the_sampler(folder) -> None:
    data = GSM8K(folder, batch_size=5, sampler=partial(CategoryBandit, categories="category", num_samples=10))
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, CategoryBandit)
    assert loader.sampler.names == [1, 2, 3]
    assert len(list(loader)) == 2


def test_what_is_missing_is_told(folder, tmp_path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"data\.held_out must be a share .* got null.*folder with train\.jsonl\.gz"
    ):
        GSM8K(f"{folder}/train.jsonl.gz").setup("fit")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigurationError, match=r"data\.path must be a file, or a folder that holds train\.jsonl"):
        GSM8K(str(empty)).setup("fit")
    with pytest.raises(ConfigurationError, match=r"rows to train on beside 18 examples and 2 held-out rows, got 20"):
        GSM8K(folder, examples=18, held_out=0.1).setup("fit")
    with pytest.raises(ConfigurationError, match="file that exists"):
        GSM8K(f"{folder}/no.jsonl", held_out=0.1).setup("fit")


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"template": "Q:"}, r"GSM8K\.template must be a text that holds \{question\} \(a brace"),
        ({"template": "{question} {answer}"}, r"GSM8K\.template must be a text that holds \{question\} \(a brace"),
        ({"template": "{question} {"}, r"GSM8K\.template must be a text that holds \{question\} \(a brace"),
        ({"examples": -1}, r"GSM8K\.examples must be a whole number of at least 0, got -1"),
        ({"held_out": 0.0}, r"GSM8K\.held_out must be in \(0, 1\) or None, got 0\.0"),
        ({"held_out": "some"}, r"GSM8K\.held_out must be in \(0, 1\) or None, got 'some'"),
        ({"held_out": 1.0}, r"GSM8K\.held_out must be in \(0, 1\) or None, got 1\.0"),
        ({"batch_size": 0}, r"GSM8K\.batch_size must be a whole number of at least 1, got 0"),
    ],
)
def test_arguments_are_checked(argument, told, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        GSM8K("train.jsonl", **argument)
