from __future__ import annotations

import gzip
import json

import pytest

from lightning_select.errors import ConfigurationError
from lightning_select.preferences.pairs import read_pairs

PAIRS = [{"prompt": f"p{n}", "chosen": f"é{n}", "rejected": f"b{n}", "id": n} for n in range(4)]


def lines(pairs):
    return "\n".join(json.dumps(pair, ensure_ascii=False) for pair in pairs) + "\n"


def saved(folder, content):
    (folder / "pairs.data").write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder / "pairs.data")


@pytest.mark.parametrize(
    "content",
    [lines(PAIRS), "\ufeff" + lines(PAIRS).replace("\n", "\r\n\n"), gzip.compress(lines(PAIRS).encode(), mtime=0)],
    ids=["lines", "lines of Windows, some blank", "gzipped"],
)
def test_a_file_of_any_form_is_read_whatever_its_name(tmp_path, content):
    read = read_pairs(saved(tmp_path, content))
    assert read == [{**{key: pair[key] for key in ("prompt", "chosen", "rejected")}, "flipped": None} for pair in PAIRS]


def test_what_is_known_to_be_swapped_is_read_and_a_prompt_may_be_empty(tmp_path):
    pairs = [{"prompt": "", "chosen": "a", "rejected": "b", "flipped": flag} for flag in (True, False)]
    assert read_pairs(saved(tmp_path, lines(pairs))) == pairs


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "data.path must hold at least one pair, got none in "),
        (lines(PAIRS[:2]) + "{'a': 1}\n", r"one list of them, got in line 3 of .*pairs\.data: Expe"),
        (lines(PAIRS[:2]) + "\n[1]\n", r"line 4 of .* must be an object with fields, got \[1\]"),
        ('{"chosen": "a", "rejected": "b"}', "line 1 of .* must have the field prompt, got chosen, rejected"),
        ('{"prompt": "a", "rejected": "b"}', "must have the field chosen"),
        ("{}", "must have the field prompt, got none"),
        ('{"prompt": "a", "chosen": 3, "rejected": "b"}', "chosen in line 1 of .* must be text, got 3"),
        ('{"prompt": null, "chosen": "a", "rejected": "b"}', "prompt in line 1 of .* must be text, got None"),
        ('{"prompt": "a", "chosen": "a", "rejected": " \\n"}', "rejected in line 1 of .* must not be empty"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "chosen and rejected in line 1 of .* must differ"),
        ('{"prompt": "a", "chosen": "c", "rejected": "b", "flipped": 1}', "flipped in line 1 .* true or false, got 1"),
        (
            '{"prompt": "a", "chosen": "c", "rejected": "b", "flipped": true}\n' + lines(PAIRS[:1]),
            "flipped must be in every pair of .* got none in pair 2",
        ),
        (b"\xff\xfe\x00", "data.path must be a readable text file in UTF-8"),
        (gzip.compress(b"{}", mtime=0)[:-9], "data.path must be a readable text file in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path, content, told):
    with pytest.raises(ConfigurationError, match=told):
        read_pairs(saved(tmp_path, content))


def test_a_file_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"file that exists, got 'no.jsonl'.* looked for in {tmp_path}"):
        read_pairs("no.jsonl")
    with pytest.raises(ConfigurationError, match="must be a readable text file"):
        read_pairs(str(tmp_path))
