from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lightning_select.app.data.prompt_file import PromptRows, check_count, read_prompts, training_loader
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.category_bandit import CategoryBandit
from lightning_select.samplers.group_balanced import GroupBalanced

ROWS = [{"prompt": f"{n} + é{{x}} =", "answer": str(n), "more": [n]} for n in range(5)]


def lines(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def saved(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder / name)


@pytest.mark.parametrize(
    ("content", "kind", "places"),
    [
        (lines(ROWS), "line", [1, 2, 3, 4, 5]),
        ("\ufeff" + lines(ROWS).replace("\n", "\r\n\n"), "line", [1, 3, 5, 7, 9]),
        (json.dumps(ROWS, indent=1), "entry", [1, 2, 3, 4, 5]),
        (gzip.compress(lines(ROWS).encode(), mtime=0), "line", [1, 2, 3, 4, 5]),
        (gzip.compress(json.dumps(ROWS).encode(), mtime=0), "entry", [1, 2, 3, 4, 5]),
    ],
    ids=["lines", "lines of Windows, some blank", "list", "lines, gzipped", "list, gzipped"],
)
def test_a_file_of_any_form_is_read_whatever_its_name(tmp_path, content, kind, places) -> None:
    path = saved(tmp_path, content, "rows.data")
    expected = [
        (f"{kind} {place} of {path}", row["prompt"], row["answer"]) for place, row in zip(places, ROWS, strict=True)
    ]
    assert read_prompts(path) == expected


def test_fields_have_the_names_one_gives_them_and_answers_may_be_numbers(tmp_path) -> None:
    path = saved(tmp_path, lines([{"q": "a", "a": 3}, {"q": "b", "a": 0.5}, {"q": "c", "a": "d"}]))
    assert [row[1:] for row in read_prompts(path, prompt_key="q", answer_key="a")] == [
        ("a", "3"),
        ("b", "0.5"),
        ("c", "d"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "data.path must hold at least one row, got none in "),
        ("[]", "data.path must hold at least one row, got none in "),
        (
            lines(ROWS[:2]) + "{'a': 1}\n",
            r"one object per line or one list of them, got in line 3 of .*rows\.jsonl: Ex",
        ),
        (lines(ROWS[:2]) + "\n[1]\n", r"line 4 of .*rows\.jsonl must be an object with fields, got \[1\]"),
        ("[{}, ", "data.path must hold JSON"),
        ('[{"prompt": "a", "answer": "b"}, 3]', "entry 2 of .* must be an object with fields, got 3"),
        ('{"question": "a", "answer": "b"}', r"line 1 of .* must have the field prompt, got question, answer\."),
        ("{}", "line 1 of .* must have the field prompt, got none"),
        ('{"prompt": "a"}', r"line 1 of .* must have the field answer, got prompt\."),
        ('{"prompt": " ", "answer": "b"}', "prompt in line 1 of .* must not be empty"),
        ('{"prompt": "a", "answer": ""}', "answer in line 1 of .* must not be empty"),
        ('{"prompt": 3, "answer": "b"}', "prompt in line 1 of .* must be text, got 3"),
        ('{"prompt": "a", "answer": ["b"]}', r"answer in line 1 of .* must be text or a number, got \['b'\]"),
        ('{"prompt": "a", "answer": true}', "answer in line 1 of .* must be text or a number, got True"),
        ('{"prompt": "a", "answer": null}', "answer in line 1 of .* must be text or a number, got None"),
        (b"\xff\xfe\x00", "data.path must be a readable text file in UTF-8, got "),
        (gzip.compress(b"{}", mtime=0)[:-9], "data.path must be a readable text file in UTF-8, got "),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path, content, told) -> None:
    with pytest.raises(ConfigurationError, match=told):
        read_prompts(saved(tmp_path, content))


def test_a_file_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"file that exists, got 'no.jsonl'.* looked for in {tmp_path}"):
        read_prompts("no.jsonl")
    with pytest.raises(ConfigurationError, match="must be a readable text file"):
        read_prompts(str(tmp_path))


def test_a_row_knows_its_place() -> None:
    rows = PromptRows([("a", "1", 0), ("b", "2", 3)])
    assert list(rows[1].items()) == [("prompt", "b"), ("answer", "2"), ("category", 3), ("id", 1)]
    assert (len(rows), rows.categories) == (2, [0, 3])
    with pytest.raises(IndexError, match="range"):
        rows[2]


@pytest.mark.parametrize(("batch_size", "sizes"), [(2, [2, 2]), (5, [5]), (8, [5])])
def test_a_smaller_last_batch_is_left_out_unless_it_is_the_only_one(batch_size, sizes) -> None:
    rows = PromptRows([(str(n), "", n) for n in range(5)])
    assert [len(batch["prompt"]) for batch in training_loader(rows, batch_size, 0, None)] == sizes


@pytest.mark.parametrize(("kind", "argument"), [(CategoryBandit, "categories"), (GroupBalanced, "groups")])
def test_a_sampler_that_asks_for_categories_gets_those_of_the_rows(kind, argument) -> None:
    rows = PromptRows([(str(n), "", n % 3) for n in range(30)])
    sampler: Any = training_loader(rows, 4, 0, partial(kind, seed=5, **{argument: "category"})).sampler
    assert isinstance(sampler, kind)
    assert sampler.seed == 5
    drawn = [row for batch in training_loader(rows, 10, 0, lambda _: sampler) for row in batch["category"].tolist()]
    assert set(drawn) == {0, 1, 2}


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_a_count_is_a_whole_number(value) -> None:
    assert check_count("Owner", "field", 1, 1) == 1
    with pytest.raises(ArgumentError, match=rf"Owner\.field must be a whole number of at least 1, got {value!r}\."):
        check_count("Owner", "field", value, 1)
