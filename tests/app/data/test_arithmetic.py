from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import jaxtyping
import pytest
import torch

from lightning_select.app.data.arithmetic import CATEGORIES, Arithmetic, sums
from lightning_select.errors import ArgumentError
from lightning_select.samplers.category_bandit import CategoryBandit

Row = tuple[str, str, int]


def rows(part: str, **kwargs: Any) -> list[Row]:
    data = Arithmetic(**kwargs)
    data.setup("fit")
    found = data._parts[part]
    assert [found[place]["id"] for place in range(len(found))] == list(range(len(found)))
    return [(one["prompt"], one["answer"], one["category"]) for one in (found[place] for place in range(len(found)))]


def parsed(prompt: str) -> Iterator[str]:
    """Both numbers and the sign, by hand."""
    assert prompt.endswith("=")
    sign = next(character for character in prompt if character in "+-*")
    left, right = prompt[:-1].split(sign)
    yield from (left, sign, right)


@pytest.mark.parametrize("part", ["train", "val"])
def test_every_sum_is_right_and_of_its_category(part) -> None:
    found = rows(part)
    for prompt, answer, place in found:
        left, sign, right = parsed(prompt)
        one, other = int(left), int(right)
        assert answer == str(one + other if sign == "+" else one - other if sign == "-" else one * other)
        assert CATEGORIES[place] == f"{len(left)}{sign}{len(right)}"
        assert (left, right) == (str(one), str(other))
        assert set(prompt + answer) <= set("0123456789+-*= ")
    assert len({prompt for prompt, _, _ in found}) == len(found)
    assert {place for _, _, place in found} == set(range(len(CATEGORIES)))


def test_no_sum_to_validate_on_is_trained_on_in_either_order() -> None:
    train, val = rows("train"), rows("val")
    known = {prompt for prompt, _, _ in train}
    for prompt, _, _ in val:
        left, sign, right = parsed(prompt)
        assert prompt not in known
        assert sign == "-" or f"{right}{sign}{left}=" not in known


def test_both_orders_are_one_sum_across_categories_too() -> None:
    settings: dict[str, Any] = {"categories": ["1+2", "2+1"], "per_category": 900, "held_out": 100}
    known = {prompt for prompt, _, _ in rows("train", **settings)}
    for prompt, _, _ in rows("val", **settings):
        left, _, right = parsed(prompt)
        assert f"{right}+{left}=" not in known


def test_as_many_sums_as_are_asked_for_or_all_there_are() -> None:
    train, val = (
        Counter(place for _, _, place in rows(part, per_category=150, held_out=30)) for part in ("train", "val")
    )
    for place, category in enumerate(CATEGORIES):
        total = 100 if category in ("1+1", "1-1", "1*1") else 150
        held_out = 25 if total == 100 else 30
        assert val[place] == held_out
        if category[1] == "-":
            assert train[place] == total - held_out
        else:
            assert total - 2 * held_out <= train[place] <= total - held_out
    small = {part: rows(part, categories=["1-1"], per_category=4, held_out=20) for part in ("train", "val")}
    assert {part: len(found) for part, found in small.items()} == {"train": 3, "val": 1}


@pytest.mark.parametrize("categories", [["1+1"], ["1*1", "2*1"], ["1+2", "2+1"]])
def test_some_are_left_to_train_on_however_many_are_held_out(categories) -> None:
    settings: dict[str, Any] = {"categories": categories, "per_category": 10**4, "held_out": 10**4}
    trained = Counter(place for _, _, place in rows("train", **settings))
    assert set(trained) == set(range(len(categories)))
    assert min(trained.values()) >= 50


def test_examples_are_right_spread_by_shares_and_not_validated_on() -> None:
    data = Arithmetic(categories=["1+1", "2-1", "2+1"])
    prompts, answers = data.examples(4000, {"1+1": 3, "2-1": 1.0, "2+1": 0})
    assert Counter(f"{len(left)}{sign}{len(right)}" for left, sign, right in map(parsed, prompts)) == {
        "1+1": 3000,
        "2-1": 1000,
    }
    for prompt, answer in zip(prompts, answers, strict=True):
        left, sign, right = parsed(prompt)
        assert answer == str(int(left) + int(right) if sign == "+" else int(left) - int(right))
    for prompt, _, _ in rows("val", categories=["1+1", "2-1", "2+1"]):
        left, sign, right = parsed(prompt)
        assert prompt not in prompts
        assert sign == "-" or f"{right}{sign}{left}=" not in prompts
    assert len({prompt for prompt in prompts if "-" not in prompt}) > 50  # every one that is left, many times over
    assert 0 < sum("-" in prompt for prompt in prompts[:100]) < 100  # in random order


def test_examples_are_the_same_again_and_equally_many_of_all_by_default() -> None:
    found = Arithmetic(seed=2).examples(1000)
    assert found == Arithmetic(seed=2).examples(1000) != Arithmetic(seed=3).examples(1000)
    assert [len(part) for part in found] == [1000, 1000]
    counts = Counter(f"{len(left)}{sign}{len(right)}" for left, sign, right in map(parsed, found[0]))
    assert set(counts) == set(CATEGORIES)
    assert max(counts.values()) == 63


def test_a_share_of_the_answers_may_be_wrong() -> None:
    prompts, answers = Arithmetic(categories=["2+1", "2-1"]).examples(4000, wrong={"2+1": 0.3})
    off = {"+": [], "-": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        left, sign, right = parsed(prompt)
        off[sign].append(int(answer) - (int(left) + int(right) if sign == "+" else int(left) - int(right)))
    assert not any(off["-"])
    assert sum(map(bool, off["+"])) / 2000 == pytest.approx(0.3, abs=0.04)
    assert {abs(error) for error in off["+"]} == {0, 1, 2, 3, 10, 20}
    assert {error > 0 for error in off["+"] if error} == {True, False}


@pytest.mark.parametrize("wrong", [{"1+1": 1.5}, {"3*3": 0.5}, {"1+1": "a"}, {"1+1": float("nan")}, [0.5]])
def test_shares_of_wrong_answers_are_checked(wrong, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(
        ArgumentError, match=r"Arithmetic\.examples\.wrong must be shares in \[0, 1\], for some of 1\+1"
    ):
        Arithmetic(categories=["1+1"]).examples(10, wrong=wrong)


@pytest.mark.parametrize(
    "shares", [{}, {"1+1": 0}, {"3*3": 1}, {"1+1": -1}, {"1+1": "a"}, [1, 2], {"1+1": float("inf")}]
)
def test_shares_are_checked(shares, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"Arithmetic\.examples\.shares must be numbers of at least 0, not all 0"):
        Arithmetic().examples(10, shares)


def test_a_shape_has_all_its_sums() -> None:
    assert sorted(sums("1+1", 1000, random.Random(0))) == sorted(
        (f"{one}+{other}=", str(one + other)) for one in range(10) for other in range(10)
    )
    assert len(sums("2*1", 10**6, random.Random(0))) == 90 * 10
    assert len(set(sums("3-3", 500, random.Random(0)))) == 500


def test_the_seed_decides_the_sums_and_each_category_has_its_own() -> None:
    assert rows("train", seed=3) == rows("train", seed=3)
    assert rows("train", seed=3) != rows("train", seed=4)
    alone = [row[:2] for row in rows("val", categories=["2+2"])]
    assert [row[:2] for row in rows("val") if CATEGORIES[row[2]] == "2+2"] == alone


def test_first_batches_of_validation_hold_every_category() -> None:
    data = Arithmetic(batch_size=len(CATEGORIES))
    data.setup("fit")
    for batch in data.val_dataloader():
        assert batch["category"].tolist() == list(range(len(CATEGORIES)))


def test_a_batch_is_two_lists_and_two_tensors() -> None:
    data = Arithmetic(batch_size=8)
    data.setup("fit")
    data.setup("test")
    batch = next(iter(data.train_dataloader()))
    assert list(batch) == ["prompt", "answer", "category", "id"]
    assert all(isinstance(text, str) for key in ("prompt", "answer") for text in batch[key])
    assert [len(batch[key]) for key in batch] == [8] * 4
    assert batch["category"].dtype == batch["id"].dtype == torch.int64
    dataset = data.rows
    for place in range(8):
        assert dataset[int(batch["id"][place])]["prompt"] == batch["prompt"][place]


def test_the_training_rows_are_drawn_by_the_sampler() -> None:
    data = Arithmetic(batch_size=8, sampler=partial(CategoryBandit, categories="category", num_samples=64))
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, CategoryBandit)
    assert loader.sampler.names == list(range(len(CATEGORIES)))
    assert len(list(loader)) == 8


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"categories": []}, r"Arithmetic\.categories must be a list of different shapes such as 2\+1, .* got \[\]"),
        ({"categories": "2+1"}, r"Arithmetic\.categories must be a list of .* got '2\+1'"),
        ({"categories": ["2+1", "4+1"]}, r"Arithmetic\.categories must be a list of .* got '4\+1'"),
        ({"categories": ["2/1"]}, r"Arithmetic\.categories must be a list of .* got '2/1'"),
        ({"categories": [21]}, r"Arithmetic\.categories must be a list of .* got 21"),
        ({"categories": ["2+1", "2+1"]}, r"Arithmetic\.categories must be a list of .* got \['2\+1', '2\+1'\]"),
        ({"per_category": 3}, r"Arithmetic\.per_category must be a whole number of at least 4, got 3"),
        ({"held_out": 0}, r"Arithmetic\.held_out must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, r"Arithmetic\.batch_size must be a whole number of at least 1, got 0"),
    ],
)
def test_arguments_are_checked(argument, told, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        Arithmetic(**argument)
