from __future__ import annotations

import gzip
import json
import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_select.app.data.instruction_file import read_instructions
from lightning_select.app.data.instructions import Collate, Instructions
from lightning_select.app.data.small_tasks import small_tasks
from lightning_select.app.data.tokenizer import load_tokenizer
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.language_models import start_tokens

ROWS = [{"instruction": f"Say {n}.", "input": "é{x}" * (n % 3), "output": "o" * (n + 1)} for n in range(10)]
needs_transformers = pytest.mark.skipif("not __import__('importlib').util.find_spec('transformers')")


def lines(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def saved(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder / name)


def all_rows(data: Instructions) -> list[dict[str, list[int]]]:
    data.setup("fit")
    return [data._parts[part][row] for part in ("train", "val") for row in range(len(data._parts[part]))]


@pytest.mark.parametrize(
    "content",
    [
        lines(ROWS),
        "\ufeff" + lines(ROWS).replace("\n", "\r\n\n"),
        json.dumps(ROWS, indent=1),
        gzip.compress(lines(ROWS).encode(), mtime=0),
        gzip.compress(json.dumps(ROWS).encode(), mtime=0),
    ],
    ids=["lines", "lines of Windows, some blank", "list", "lines, gzipped", "list, gzipped"],
)
def test_a_file_of_any_form_is_read_whatever_its_name(tmp_path, content) -> None:
    assert read_instructions(saved(tmp_path, content, "rows.data")) == ROWS


def test_an_input_may_be_missing_and_the_answer_be_called_response(tmp_path) -> None:
    rows = [{"instruction": "a", "response": "b", "id": 3}, {"instruction": "a", "input": None, "output": "c"}]
    assert read_instructions(saved(tmp_path, lines(rows))) == [
        {"instruction": "a", "input": "", "output": "b"},
        {"instruction": "a", "input": "", "output": "c"},
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "data.path must hold at least one row, got none in "),
        ("[]", "data.path must hold at least one row, got none in "),
        (
            lines(ROWS[:2]) + "{'a': 1}\n",
            r"one object per line or one list of them, got in line 3 of .*rows\.jsonl: Expe",
        ),
        (lines(ROWS[:2]) + "\n[1]\n", r"line 4 of .* must be an object with fields, got \[1\]"),
        ("[{}, ", "data.path must hold JSON"),
        ('[{"instruction": "a", "output": "b"}, 3]', "entry 2 of .* must be an object with fields, got 3"),
        ('{"prompt": "a", "output": "b"}', r"line 1 of .* must have the field instruction, got prompt, output\."),
        ('{"instruction": "a", "answer": "b"}', r"must have the field output \(or response\), got instruction, answer"),
        ("{}", "must have the field instruction, got none"),
        ('{"instruction": "a", "output": " \\n"}', "output in line 1 of .* must not be empty"),
        ('{"instruction": "", "output": "b"}', "instruction in line 1 of .* must not be empty"),
        ('{"instruction": "a", "response": 3}', "response in line 1 of .* must be text, got 3"),
        ('{"instruction": "a", "input": [1], "output": "b"}', r"input in line 1 of .* must be text, got \[1\]"),
        (b"\xff\xfe\x00", "data.path must be a readable text file in UTF-8, got "),
        (gzip.compress(b"{}", mtime=0)[:-9], "data.path must be a readable text file in UTF-8, got "),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path, content, told) -> None:
    with pytest.raises(ConfigurationError, match=told):
        read_instructions(saved(tmp_path, content))


def test_a_file_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"file that exists, got 'no.jsonl'.* looked for in {tmp_path}"):
        read_instructions("no.jsonl")
    with pytest.raises(ConfigurationError, match="must be a readable text file"):
        read_instructions(str(tmp_path))


def test_the_small_tasks_are_many_and_no_two_alike() -> None:
    tasks = small_tasks()
    assert len({tuple(task.values()) for task in tasks}) == len(tasks) == 400
    assert len({task["instruction"] for task in tasks}) > 50
    assert all(task["instruction"] and task["output"] for task in tasks)
    assert small_tasks() == tasks != small_tasks(1)
    backwards = [task for task in tasks if "backwards" in task["instruction"]]
    assert backwards
    assert all(task["output"] == task["input"][::-1] for task in backwards)


@needs_transformers
def test_prompt_and_padding_have_no_labels(tmp_path) -> None:
    data = Instructions(
        saved(tmp_path, lines(ROWS)), prompt="{instruction}>", prompt_with_input="{input}|{instruction}>"
    )
    found = []
    for row in all_rows(data):
        answer = [token for token in row["labels"] if token != -100]
        start = len(row["labels"]) - len(answer)
        assert row["labels"] == [-100] * start + row["input_ids"][start:]
        assert answer[-1] == 1  # the end of the text
        found.append((data.tokenizer.decode(row["input_ids"][:start]), data.tokenizer.decode(answer[:-1])))
    expected = [
        (f"{row['input']}|{row['instruction']}>" if row["input"] else f"{row['instruction']}>", row["output"])
        for row in ROWS
    ]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_as_wide_as_its_longest_row(side) -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    collate = pickle.loads(pickle.dumps(Collate(9, side)))
    batch = collate(rows)
    right = side == "right"
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9] if right else [9, 9, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0] if right else [0, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100] if right else [-100, -100, 8]]
    assert all(part.dtype == torch.int64 for part in batch.values())


@needs_transformers
def test_long_rows_are_cut_and_those_without_an_answer_left_out_and_counted(tmp_path, caplog, monkeypatch) -> None:
    rows = [{"instruction": "i" * n, "output": "answer"} for n in (2, 5, 9, 10, 40)]
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    data = Instructions(saved(tmp_path, lines(rows)), max_length=10, prompt="{instruction}")
    with caplog.at_level(logging.INFO):
        kept = sorted(all_rows(data), key=lambda row: row["labels"].count(-100))
    assert [len(row["input_ids"]) for row in kept] == [9, 10, 10]
    assert [sum(label != -100 for label in row["labels"]) for row in kept] == [7, 5, 1]
    assert "leaves out 2 of 5 rows, whose answers begin after max_length=10 tokens" in caplog.text
    with pytest.raises(
        ConfigurationError, match="at least 2 rows whose answers begin within data.max_length=2 t.* 0 of 5"
    ):
        Instructions(saved(tmp_path, lines(rows[1:] * 1 + rows[1:2])), max_length=2, prompt="{instruction}").setup(
            "fit"
        )


@needs_transformers
def test_the_seed_decides_what_is_held_out() -> None:
    def parts(**kwargs: Any) -> list[set[tuple[int, ...]]]:
        data = Instructions(**kwargs)
        data.setup("fit")
        return [{tuple(row["input_ids"]) for row in data._parts[part]._rows} for part in ("train", "val")]

    train, val = parts(held_out=0.25)
    assert (len(train), len(val), len(train & val)) == (300, 100, 0)
    assert parts(held_out=0.25) == [train, val]
    assert parts(held_out=0.25, seed=1) != [train, val]


@needs_transformers
def test_a_batch_larger_than_the_data_is_all_of_them(tmp_path) -> None:
    data = Instructions(saved(tmp_path, lines(ROWS)), batch_size=64)
    data.setup("fit")
    assert [len(batch["labels"]) for batch in data.train_dataloader()] == [9]
    assert [len(batch["labels"]) for batch in data.val_dataloader()] == [1]


@needs_transformers
def test_the_training_rows_are_drawn_by_the_sampler(tmp_path) -> None:
    data = Instructions(saved(tmp_path, lines(ROWS)), batch_size=3, sampler=lambda rows: range(len(rows) - 3))
    data.setup("fit")
    assert len(list(data.train_dataloader())) == 2
    assert data.train_dataloader().sampler == range(6)


@needs_transformers
def test_a_tokenizer_of_a_folder_starts_a_text_as_it_does_itself(tmp_path) -> None:
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="a"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    assert start_tokens(plain) == []
    words.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    starting = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    starting.save_pretrained(tmp_path / "tokenizer")
    rows = [{"instruction": "b", "output": "a b"}] * 4
    data = Instructions(saved(tmp_path, lines(rows)), str(tmp_path / "tokenizer"), prompt="{instruction}")
    assert all_rows(data) == [{"input_ids": [0, 3, 2, 3, 1], "labels": [-100, -100, 2, 3, 1]}] * 4
    assert data._collate.pad == 1  # it has no token for padding


@needs_transformers
@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"batch_size": 0}, r"Instructions\.batch_size must be a whole number of at least 1, got 0"),
        ({"max_length": 1}, r"Instructions\.max_length must be a whole number of at least 2, got 1"),
        ({"prompt": "Say: "}, r"Instructions\.prompt must be a text that holds \{instruction\} \("),
        ({"prompt": "{instruction} {"}, r"Instructions\.prompt must be a text that holds \{instruction\} \("),
        ({"prompt_with_input": "{instruction}"}, r"must be a text that holds \{instruction\} and \{input\} \("),
        ({"held_out": 0.0}, r"Instructions\.held_out must be a float in \(0, 1\), got 0\.0"),
        ({"held_out": 1.0}, r"Instructions\.held_out must be a float in \(0, 1\), got 1\.0"),
        ({"padding_side": "both"}, r"Instructions\.padding_side must be right or left, got 'both'"),
    ],
)
def test_arguments_are_checked(argument, told) -> None:
    with pytest.raises(ArgumentError, match=told):
        Instructions(**argument)


@needs_transformers
def test_a_tokenizer_that_cannot_be_loaded_is_told(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="data.tokenizer must be a folder or a hub id of a tokenizer"):
        load_tokenizer(str(tmp_path))


def test_transformers_may_be_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigurationError, match=r"data=instructions must have transformers.*lightning-select\[llm\]"):
        Instructions()
