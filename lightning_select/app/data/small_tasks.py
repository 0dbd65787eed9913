"""A few hundred small instructions with their answers, so that fine-tuning can be tried without a file or a network.

Ten families of tasks, from a fixed word list. Some families ask the same in several words and are learnt after a few
examples, others have to be computed: a pool as redundant as instruction data usually are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

__all__ = ["small_tasks"]

_WORDS = (
    *("apple", "bridge", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle"),
    *("ladder", "market", "needle", "orange", "pencil", "quarry", "rabbit", "saddle", "tunnel", "valley", "window"),
    *("anchor", "basket", "castle", "dragon", "feather", "guitar", "harbour", "kitchen", "lantern", "mirror", "planet"),
    *("river", "shadow", "temple", "violin", "whistle", "yellow", "zebra"),
)
_CAPITALS = (
    *("France Paris", "Spain Madrid", "Italy Rome", "Germany Berlin", "Norway Oslo", "Peru Lima", "Japan Tokyo"),
    *("Egypt Cairo", "Kenya Nairobi", "Cuba Havana", "Greece Athens", "Ghana Accra", "Austria Vienna"),
    *("Poland Warsaw", "Chile Santiago", "Ireland Dublin", "Iran Tehran"),
)
_OPPOSITES = (
    *("hot cold", "big small", "fast slow", "old new", "high low", "dark light", "wet dry", "full empty", "hard soft"),
    *("rich poor", "loud quiet", "early late", "open closed", "strong weak", "near far", "thick thin", "happy sad"),
)
_PER_FAMILY = 40

Task = tuple[str, str, str]
"""Instruction, input (may be empty), answer."""


def small_tasks(seed: int = 0) -> list[dict[str, str]]:
    """The rows, in random order, no two alike.

    Args:
        seed: Seed of the choice and of the order.

    >>> len(small_tasks())
    400
    >>> sorted(small_tasks()[0])
    ['input', 'instruction', 'output']
    """
    draw = random.Random(seed)
    tasks = [task for family in _FAMILIES for task in _distinct(family, draw)]
    draw.shuffle(tasks)
    return [dict(zip(("instruction", "input", "output"), task, strict=True)) for task in tasks]


def _distinct(family: Callable[[random.Random], Task], draw: random.Random) -> Iterator[Task]:
    """Different tasks of one family; every one has several times as many as are asked for."""
    seen: dict[Task, None] = {}
    while len(seen) < _PER_FAMILY:
        seen.setdefault(family(draw))
    return iter(seen)


def _capital(draw: random.Random) -> Task:
    country, city = draw.choice(_CAPITALS).split()
    asked = ("What is the capital of {}?", "Name the capital of {}.", "Which city is the capital of {}?")
    return draw.choice(asked).format(country), "", city


def _opposite(draw: random.Random) -> Task:
    one, other = draw.sample(draw.choice(_OPPOSITES).split(), 2)
    return draw.choice(("Give the opposite of the word.", "What is the contrary?")), one, other


def _capitals_of_word(draw: random.Random) -> Task:
    word = draw.choice(_WORDS)
    return draw.choice(("Write the word in capital letters.", "Put it into capitals.")), word, word.upper()


def _plural(draw: random.Random) -> Task:
    number, word = draw.randint(2, 9), draw.choice(_WORDS[:32])
    return "Write the number and the plural.", f"{number} x {word}", f"{number} {word}s"


def _length(draw: random.Random) -> Task:
    word = draw.choice(_WORDS)
    return draw.choice(("How many letters has the word?", "Count the letters.")), word, str(len(word))


def _backwards(draw: random.Random) -> Task:
    word = draw.choice(_WORDS)
    return draw.choice(("Write the word backwards.", "Spell it from its end.")), word, word[::-1]


def _sorted(draw: random.Random) -> Task:
    words = draw.sample(_WORDS, 3)
    return "Sort the words by the alphabet.", ", ".join(words), ", ".join(sorted(words))


def _sum(draw: random.Random) -> Task:
    one, other = draw.randint(2, 49), draw.randint(2, 49)
    return f"Add {one} and {other}.", "", str(one + other)


def _series(draw: random.Random) -> Task:
    start, step = draw.randint(1, 20), draw.randint(2, 9)
    numbers: Sequence[int] = [start + step * place for place in range(6)]
    return "Continue with two numbers.", ", ".join(map(str, numbers[:4])), ", ".join(map(str, numbers[4:]))


def _sentence(draw: random.Random) -> Task:
    one, other = draw.sample(_WORDS, 2)
    return "Make a sentence of the two words.", f"{one}, {other}", f"The {one} is next to the {other}."


_FAMILIES = (
    *(_capital, _opposite, _capitals_of_word, _plural, _length),
    *(_backwards, _sorted, _sum, _series, _sentence),
)
