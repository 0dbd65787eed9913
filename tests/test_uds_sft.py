"""The parts of the benchmark `uds_sft`: tokens, near copies, what is held out, and what its arms are trained on."""

from __future__ import annotations

import gzip
import json
import re
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "examples" / "benchmarks"

pytestmark = [
    pytest.mark.repository,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the examples are not part of an installed package"),
]


def test_merges_are_those_of_a_loop_that_counts_anew_each_time(load: Any) -> None:
    texts = ["low lower lowest low low", "new newer newest new lower", "wide wider widest", "é é é 12 12 12"] * 3
    learnt = load("sft_tokens").Tokenizer.learn(texts, 258 + 12).merges
    words = [list(word.encode()) for text in texts for word in load("sft_tokens")._WORD.findall(text)]
    expected = []
    for name in range(256, 268):
        seen = [pair for word in words for pair in pairwise(word)]
        best = max(set(seen), key=lambda pair: (seen.count(pair), pair))
        expected.append(best)
        for word in words:
            place = 0
            while place + 1 < len(word):
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = [name]
                place += 1
    assert list(learnt) == expected


def test_tokens_say_what_the_text_said(load: Any) -> None:
    tokenizer = load("sft_tokens").Tokenizer.learn(["to be or not to be, that is the question"] * 3, 290)
    meaning = [bytes([byte]) for byte in range(256)]
    for left, right in tokenizer.merges:
        meaning.append(meaning[left] + meaning[right])
    text = "To be, or  not\nto bé: f(x)=12 questions"
    tokens = tokenizer.encode(text)
    assert b"".join(meaning[token] for token in tokens).decode() == text
    assert len(tokens) < len(text.encode())


def test_labels_are_the_answer_and_the_end(load: Any) -> None:
    module = load("sft_tokens")
    tokenizer = module.Tokenizer([])
    tokens, labels = tokenizer.rows([("ask", "yes"), ("asked for long", "answered")], 12)
    between, end, off = 256, 257, module.IGNORED
    assert tokens[0].tolist() == [*b"ask", between, *b"yes", end, 0, 0, 0, 0]
    assert labels[0].tolist() == [off] * 4 + [*b"yes", end] + [off] * 4
    # Of the answer two thirds of the row are kept, of the prompt the end.
    assert tokens[1].tolist() == [*b"ong", between, *b"answered"]
    assert labels[1].tolist() == [off] * 4 + [*b"answered"]
    running = tokenizer.running(["abc", "de"], 3)
    assert running.tolist() == [[*b"abc"], [end, *b"de"]]


def _words(pair: tuple[str, str]) -> set[str]:
    return set(re.findall(r"\w+", f"{pair[0].splitlines()[-1]} {pair[1]}".lower()))


def _alike(one: tuple[str, str], other: tuple[str, str]) -> bool:
    a, b = _words(one), _words(other)
    return len(a & b) / len(a | b) >= 0.5


def test_held_out_rows_have_no_near_copy_anywhere(load: Any) -> None:
    pool = load("sft_pool").made_up(300)
    split = pool.split(3, (120, 10, 20))
    train, held = (
        [pool.pairs[row] for row in rows] for rows in (split.train, torch.cat([split.validation, split.test]))
    )
    assert (len(train), len(split.validation), len(split.test)) == (120, 10, 20)
    assert not any(_alike(row, other) for row in train for other in held)
    assert not any(_alike(row, other) for row, other in combinations(held, 2))
    # There were some to be left out, and those among the rows that are left are counted.
    assert any(_alike(row, other) for row in pool.pairs for other in held if row != other)
    repeats = [any(_alike(row, earlier) for earlier in train[:place]) for place, row in enumerate(train)]
    assert 0 < sum(repeats) < len(train)
    assert pool.repeats(split.train) == pytest.approx(sum(repeats) / len(train))


def test_only_the_last_line_of_an_instruction_tells_near_copies(load: Any) -> None:
    shared = "a tool for all kinds of things that you may want to ask of it"
    pairs = [(f"{shared}\nred fox", "runs"), (f"{shared}\nblue bird", "flies"), ("red fox", "runs off")]
    pool = load("sft_pool").Pool("three", pairs, [])
    everyone = torch.arange(3)
    assert pool.copies(everyone, everyone).tolist() == [
        [True, False, True],
        [False, True, False],
        [True, False, True],
    ]


@pytest.mark.parametrize(
    ("other", "alike"),
    [("a b d", True), ("a b c d e f", True), ("a b d e", False), ("a b c d e f g", False), ("c b a b", True)],
)
def test_near_copies_share_half_of_their_words(load: Any, other: str, alike: bool) -> None:
    pool = load("sft_pool").Pool("two", [("a", "b c"), (other[0], other[1:])], [])
    assert pool.copies(torch.tensor([0]), torch.tensor([1])).tolist() == [[alike]]


@pytest.mark.parametrize("ending", ["json", "jsonl", "json.gz"])
def test_a_pool_is_read_from_a_file(load: Any, ending: str, tmp_path: Path) -> None:
    rows = [
        {"instruction": "add", "input": "1 2", "output": "3"},
        {"instruction": "say hello", "input": "", "response": "hello"},
        {"instruction": "say nothing", "input": "", "output": ""},
    ]
    content = "\n".join(map(json.dumps, rows)) if ending == "jsonl" else json.dumps(rows)
    path = tmp_path / f"pool.{ending}"
    path.write_bytes(gzip.compress(content.encode()) if ending.endswith("gz") else content.encode())
    pool = load("sft_pool").load_pool(path, ["general"])
    assert (pool.name, pool.pairs) == ("pool", [("add 1 2", "3"), ("say hello", "hello")])


def test_text_is_that_of_the_folder(load: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="and has neither"):
        load("sft_pool").load_text(tmp_path)
    (tmp_path / "wikitext_part.txt").write_text("one")
    (tmp_path / "c4_part.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
    assert load("sft_pool").load_text(tmp_path) == ["one", "two", "three"]


def test_arms_start_alike_and_are_trained_on_as_many_rows(load: Any) -> None:
    load("common").be_quiet()
    arms, contest, tokens = load("sft_arms"), load("sft_contest"), load("sft_tokens")
    pool, scale = load("sft_pool").made_up(600), contest.FAST.scale
    tokenizer = tokens.Tokenizer.learn(pool.text, scale.vocabulary)
    bed = arms.Bed(pool, tokenizer, tokenizer.running(pool.text, scale.length), scale, 0)
    found = {arm: arms.fit(bed, arm, 8, 3e-3, 2) for arm in (arms.RANDOM, arms.UDS, arms.MAX_LOSS, arms.ALL)}
    assert {one.backward for arm, one in found.items() if arm != arms.ALL} == {16}
    assert {one.start for one in found.values()} == {found[arms.ALL].start}
    assert len({one.test for one in found.values()}) == len(found)
    assert found[arms.RANDOM].rows == 16
    assert found[arms.ALL].rows == found[arms.ALL].backward == 64
    # Two candidate batches are scored, and their chosen rows trained on; some more learn how the loss is made.
    assert 2 * (32 + 8) <= found[arms.UDS].rows < 2 * (32 + 8) + 100
    assert found[arms.MAX_LOSS].loss > found[arms.RANDOM].loss
    assert arms.fit(bed, arms.RANDOM, 8, 3e-3, 2).test == found[arms.RANDOM].test


def test_the_bar_is_the_upper_end_of_the_interval(load: Any) -> None:
    arms, contest, script = load("sft_arms"), load("sft_contest"), load("uds_sft")

    def outcomes(*losses: float) -> list[Any]:
        return [arms.Outcome(loss, 9.0, 1.0, 8, 8, 1.0, 1.0, 1.0, 0.0) for loss in losses]

    found = {arms.UDS: outcomes(1.0, 2.0, 3.0), arms.RANDOM: outcomes(1.2, 2.1, 3.3)}
    one = contest.Contest(8, {}, {}, {}, found)
    # Mean -0.2, standard deviation 0.1, quantile 4.303 for three seeds.
    (bar,) = script.bars([one])
    assert bar.value == pytest.approx(-0.2 + 4.303 * 0.1 / 3**0.5, abs=1e-6)
    assert not bar.holds
    assert one.ahead(arms.UDS, arms.RANDOM) == "neither uds nor random subset is clearly ahead"
    found[arms.RANDOM] = outcomes(1.2, 2.2, 3.21)
    assert all(bar.holds for bar in script.bars([one]))
    assert one.ahead(arms.RANDOM, arms.UDS) == "uds is ahead of random subset"
