"""Sums to be worked out, from easy to hopeless, so that training on rewards can be tried without a file or a network.

A category is a shape of sum: the digits of one number, an operation, the digits of the other. ``2+1`` holds ``57+8=``,
``3*2`` holds ``412*36=``. More digits are harder, products harder than differences, and these harder than sums.
"""

from __future__ import annotations

import itertools
import math
import operator
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_select.app.data.prompt_file import PromptRows, SamplerFactory, check_count, training_loader
from lightning_select.errors import ArgumentError

__all__ = ["CATEGORIES", "Arithmetic", "Sum", "sums"]

CATEGORIES = (
    *("1+1", "1-1", "1*1", "2+1", "2-1", "2*1", "2+2", "2-2", "2*2"),
    *("3+1", "3-1", "3+2", "3-2", "3*1", "3+3", "3-3"),
)
_SHAPE = re.compile(r"([1-3])([-+*])([1-3])")
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}

Sum = tuple[str, str]
"""Prompt and answer, such as ``("12+7=", "19")``."""


def sums(category: str, count: int, draw: random.Random) -> list[Sum]:
    """Different sums of one shape, in random order; all there are, where they are fewer than asked for.

    Numbers of more than one digit do not begin with 0; a difference may be negative.

    >>> sums("2-1", 3, random.Random(0))
    [('96-4=', '92'), ('49-4=', '45'), ('87-6=', '81')]
    """
    sign = category[1]
    first, second = _numbers(int(category[0])), _numbers(int(category[2]))
    chosen = draw.sample(range(len(first) * len(second)), min(count, len(first) * len(second)))
    pairs = ((first[place // len(second)], second[place % len(second)]) for place in chosen)
    return [(f"{one}{sign}{other}=", str(_OPERATIONS[sign](one, other))) for one, other in pairs]


class Arithmetic(LightningDataModule):
    """Batches ``{"prompt", "answer", "category", "id"}``: texts such as ``12+7=`` and ``19``, and tensors of numbers.

    ``category`` is the position in ``categories``, ``id`` the position among the rows of the part. No sum to validate
    on is among the training rows, nor is it the other way round (``7+12=``).

    Args:
        categories: Shapes of sums: digits of a number (1 to 3), ``+``, ``-`` or ``*``, digits of the other.
        per_category: Sums of each category, those to validate on included; or all there are.
        held_out: Sums of each category to validate on, at most a quarter of them.
        batch_size: Prompts of a batch.
        seed: Seed of the choice of the sums.
        num_workers: Worker processes of the training loader.
        sampler: Called with the training rows, makes the sampler of the training loader; ``None`` shuffles them. An
            argument of it that is the word ``category`` stands for the categories of the rows.

    Raises:
        ArgumentError: A value is out of range.
    """

    def __init__(
        self,
        categories: Sequence[str] = CATEGORIES,
        per_category: int = 200,
        held_out: int = 20,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        sampler: SamplerFactory | None = None,
    ) -> None:
        super().__init__()
        self.categories = _checked(categories)
        self.per_category = check_count("Arithmetic", "per_category", per_category, 4)
        self.held_out = check_count("Arithmetic", "held_out", held_out, 1)
        self.batch_size = check_count("Arithmetic", "batch_size", batch_size, 1)
        self.seed = seed
        self.num_workers = num_workers
        self.sampler = sampler
        self._parts: dict[str, PromptRows] = {}

    @property
    def rows(self) -> PromptRows:
        """The training rows, once the sums are chosen."""
        return self._parts["train"]

    def examples(
        self,
        count: int,
        shares: Mapping[str, int | float] | None = None,
        wrong: Mapping[str, int | float] | None = None,
    ) -> tuple[list[str], list[str]]:
        """Sums with their answers for a supervised start, none of which is validated on, in either order.

        Args:
            count: How many; sums come more than once where a category has not as many.
            shares: Share of each category, relative to the others, 0 for one that is not named; ``None``: all alike.
            wrong: Share of the answers of each category that are wrong, by 1, 2, 3, 10 or 20 up or down, 0 for one
                that is not named. What is learnt from them is right that often, which leaves rewards something to say.

        Raises:
            ArgumentError: A share is out of range, or names no category of these data.
        """
        check_count("Arithmetic.examples", "count", count, 1)
        weights = dict.fromkeys(self.categories, 1.0) if shares is None else _checked_shares(shares, self.categories)
        self.setup("fit")
        val = self._parts["val"]
        known = {way for place in range(len(val)) for way in _ways(val[place]["prompt"])}
        mistakes = dict.fromkeys(self.categories, 0.0) if wrong is None else _checked_wrong(wrong, self.categories)
        draw = random.Random(f"{self.seed} examples")
        found: list[Sum] = []
        for category, weight in weights.items():
            wanted = math.ceil(count * weight / sum(weights.values()))
            rows = [row for row in sums(category, wanted + len(known), draw) if row[0] not in known]
            chosen = itertools.islice(itertools.cycle(rows), wanted)
            found += [_mistaken(row, draw) if draw.random() < mistakes[category] else row for row in chosen]
        draw.shuffle(found)
        return [prompt for prompt, _ in found[:count]], [answer for _, answer in found[:count]]

    def setup(self, stage: str) -> None:
        """Choose the sums."""
        if self._parts:
            return
        drawn = [sums(one, self.per_category, random.Random(f"{self.seed} {one}")) for one in self.categories]
        counts = [min(self.held_out, len(rows) // 4) for rows in drawn]  # so that some are left to train on
        turns = [(turn, place) for turn in range(max(counts)) for place in range(len(drawn)) if turn < counts[place]]
        val = [(*drawn[place][turn], place) for turn, place in turns]
        known = {way for prompt, _, _ in val for way in _ways(prompt)}
        rest = [(*row, place) for place, rows in enumerate(drawn) for row in rows[counts[place] :]]
        train = [row for row in rest if row[0] not in known]
        self._parts = {"train": PromptRows(train), "val": PromptRows(val)}

    @property
    def held_out_rows(self) -> PromptRows:
        """Those to validate on."""
        return self._parts["val"]

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, in random order or as the sampler draws them."""
        return training_loader(self._parts["train"], self.batch_size, self.num_workers, self.sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """The held-out sums, taking turns: the first batches hold sums of every category."""
        return DataLoader(self._parts["val"], self.batch_size)


def _numbers(digits: int) -> range:
    return range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _ways(prompt: str) -> tuple[str, ...]:
    """The sum, and the one that is the same in another order."""
    left, sign, right = re.split(r"([-+*])", prompt.removesuffix("="))
    return (prompt,) if sign == "-" else (prompt, f"{right}{sign}{left}=")


def _checked(categories: Any) -> tuple[str, ...]:
    told = "Arithmetic.categories must be a list of different shapes such as 2+1, of 1 to 3 digits and + - or *, got"
    if isinstance(categories, str) or not isinstance(categories, Sequence) or not categories:
        raise ArgumentError(f"{told} {categories!r}.")
    for category in categories:
        if not isinstance(category, str) or _SHAPE.fullmatch(category) is None:
            raise ArgumentError(f"{told} {category!r}.")
    if len(set(categories)) < len(categories):
        raise ArgumentError(f"{told} {list(categories)!r}.")
    return tuple(categories)


def _checked_shares(shares: Any, categories: Sequence[str]) -> dict[str, float]:
    told = (
        f"Arithmetic.examples.shares must be numbers of at least 0, not all 0, for some of {', '.join(categories)}, got"
    )
    fitting = isinstance(shares, Mapping) and set(shares) <= set(categories)
    if not fitting or not all(isinstance(one, (int, float)) and 0 <= one < math.inf for one in shares.values()):
        raise ArgumentError(f"{told} {shares!r}.")
    found = {category: float(shares[category]) for category in categories if shares.get(category)}
    if not found:
        raise ArgumentError(f"{told} {shares!r}.")
    return found


def _mistaken(row: Sum, draw: random.Random) -> Sum:
    prompt, answer = row
    return prompt, str(int(answer) + draw.choice((-1, 1)) * draw.choice((1, 2, 3, 10, 20)))


def _checked_wrong(wrong: Any, categories: Sequence[str]) -> dict[str, float]:
    fitting = isinstance(wrong, Mapping) and set(wrong) <= set(categories)
    if not fitting or not all(isinstance(one, (int, float)) and 0 <= one <= 1 for one in wrong.values()):
        names = ", ".join(categories)
        raise ArgumentError(f"Arithmetic.examples.wrong must be shares in [0, 1], for some of {names}, got {wrong!r}.")
    return {category: float(wrong.get(category, 0.0)) for category in categories}
