r"""Number answer: 1 where the number that a completion ends up with is that of its row.

The number is looked for where solutions put it: after ``####`` (GSM8K), after "answer is", in ``\boxed{}``, and where
none of these holds one, it is the last number of the completion. Of several such places of a kind the first one
counts, so that a model that goes on with another question after its answer is not judged by that one.

Numbers are compared exactly, as numbers: 1,000 is 1000.0, 1/2 is 0.5, 2e3 is 2000. Signs of currency and per cent are
left out, which makes $5 and 5% the number 5, and not 0.05. Number words, roots and mixed numbers are not read.

Know before use: the last number of a text is easily right by chance where answers are small, and a model may learn to
end on likely ones. ``pattern`` asks for a form of the answer instead, and gives nothing where it is not kept.

References:
    Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021, arXiv:2110.14168 (GSM8K and its ``####``).

Deviations:
    Evaluations of GSM8K read either the mark or the last number; here one is tried after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.rewards.exact_answer import answers_of

__all__ = ["NumberAnswer", "number_answer", "read_number"]

_PLACES = (
    re.compile(r"####([^\n]*)"),
    re.compile(r"answer is[:\s]*([^\n]*)", re.IGNORECASE),
    re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}"),
)
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(
    r"(?P<minus>(?<![\w)\]}%.])-)?"  # a sign, where nothing stands before it that something could be taken from
    r"(?<![^\W\d_])(?<![0-9])(?<![0-9]\.)"  # not the 2 of x2, and no rest of a number
    rf"(?P<number>{_UNSIGNED})(?P<power>[eE][-+]?[0-9]{{1,3}}(?!\w))?(?:\s?/\s?(?P<below>{_UNSIGNED}))?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LEFT_OUT = re.compile(r"\\?[$€£]|\\[,!]")
_LONGEST = 400
"""Characters of a number; a longer one is noise, and slow to read."""


def read_number(text: str, pattern: str | None = None) -> Fraction | None:
    r"""The number that a solution ends up with; ``None`` where it has none.

    Args:
        text: The solution.
        pattern: A regular expression whose first group holds the number; ``None`` looks at the usual places.

    >>> [str(read_number(text)) for text in ("3 + 4 = 7", "#### 1,000.50 (not 3)", "The answer is -$5. Or 6?", "no")]
    ['7', '2001/2', '-5', 'None']
    """
    places = _PLACES if pattern is None else (re.compile(pattern),)
    found = (place.group(1) or "" for known in places for place in known.finditer(text))
    marked = next((number for part in found for number in _numbers(part)), None)
    if marked is not None or pattern is not None:
        return marked
    return next(reversed(list(_numbers(text))), None)


def number_answer(completions: Sequence[str], answers: Sequence[Fraction], pattern: str | None = None) -> list[float]:
    """1 for each completion that ends up with the number of its row, and 0 for any other.

    >>> number_answer(["It is 12.", "#### 12.0", "", "12 or 13"], [Fraction(12)] * 4)
    [1.0, 1.0, 0.0, 0.0]
    """
    pairs = zip(completions, answers, strict=True)
    return [float(read_number(completion, pattern) == answer) for completion, answer in pairs]


@dataclass(frozen=True)
class NumberAnswer:
    r"""Reward completions that end up with the number of their row.

    Attributes:
        key: Entry of the batch that holds the answers: numbers, or texts of which the number is read in the same way.
        pattern: A regular expression whose first group holds the number of a completion, such as ``####([^\n]*)``;
            a completion without it has none. ``None`` looks at the usual places, one after the other.

    Raises:
        ArgumentError: The pattern is not one; when called, the batch has no such entry, or an answer no number.
    """

    key: str = "answer"
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.pattern is None:
            return
        try:
            groups = re.compile(self.pattern).groups
        except (TypeError, re.error) as error:
            raise ArgumentError(
                f"NumberAnswer.pattern must be a regular expression, got {self.pattern!r}: {error}."
            ) from error
        if groups < 1:
            raise ArgumentError(f"NumberAnswer.pattern must have a group around the number, got {self.pattern!r}.")

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], batch: Mapping[str, Any]) -> list[float]:
        """One reward per completion."""
        texts = answers_of("NumberAnswer", self.key, batch, len(completions))
        known: dict[str, Fraction] = {}
        for text in dict.fromkeys(texts):
            number = read_number(text)
            if number is None:
                raise ArgumentError(f"NumberAnswer.{self.key} must hold numbers, got {text!r}.")
            known[text] = number
        return number_answer(completions, [known[text] for text in texts], self.pattern)


def _numbers(text: str) -> Iterator[Fraction]:
    """Every number of a text, from left to right."""
    plain = _LEFT_OUT.sub("", _FRACTION.sub(r"\1/\2", text)).replace("{,}", ",").replace("\N{MINUS SIGN}", "-")
    for place in _NUMBER.finditer(plain):
        parts = place.groupdict(default="")
        if len(place.group()) > _LONGEST:
            continue
        number = Fraction(parts["number"].replace(",", "") + parts["power"])
        below = Fraction(parts["below"].replace(",", "") or 1)
        if below:
            yield (-number if parts["minus"] else number) / below
