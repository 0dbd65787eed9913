"""Exact answer: 1 where a completion, without the blanks around it, is the answer of its row.

The usual reward of tasks with one answer that is written in one way. With ``partial`` a wrong completion earns a part
for every character that stands where the answer has it, which tells attempts apart that all fail.

Know before use: partial rewards give groups without any success a variance, so that a filter on the variance keeps
them. A filter on the share of successes wants rewards of 0 and 1, that is, ``partial=0``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from lightning_select.errors import ArgumentError

__all__ = ["ExactAnswer", "answers_of", "exact_answer"]


def exact_answer(completions: Sequence[str], answers: Sequence[str], *, partial: float = 0.0) -> list[float]:
    """1 for each completion that equals its answer; any other gets ``partial`` times its share of right places.

    That share is the number of places at which both have the same character, divided by the length of the longer one:
    an empty completion has none, and what is written beyond the answer lowers it.

    >>> exact_answer(["19", " 19 ", "1", "29x"], ["19"] * 4, partial=0.5)
    [1.0, 1.0, 0.25, 0.16666666666666666]
    """
    pairs = zip((one.strip() for one in completions), (one.strip() for one in answers), strict=True)
    return [1.0 if given == answer else partial * _agreement(given, answer) for given, answer in pairs]


@dataclass(frozen=True)
class ExactAnswer:
    """Reward completions that are the answer of their row; blanks around both do not count.

    Attributes:
        key: Entry of the batch that holds the answers; numbers are compared as Python writes them.
        partial: What a completion gets at most that is not the answer, in [0, 1].

    Raises:
        ArgumentError: A value is out of range; when called, the batch has no such entry.
    """

    key: str = "answer"
    partial: float = 0.0

    def __post_init__(self) -> None:
        number = isinstance(self.partial, Real) and not isinstance(self.partial, bool)
        if not number or not 0 <= self.partial <= 1:
            raise ArgumentError(f"ExactAnswer.partial must be in [0, 1], got {self.partial!r}.")

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], batch: Mapping[str, Any]) -> list[float]:
        """One reward per completion."""
        answers = answers_of("ExactAnswer", self.key, batch, len(completions))
        return exact_answer(completions, answers, partial=self.partial)


def answers_of(owner: str, key: str, batch: Mapping[str, Any], count: int) -> list[str]:
    """The answers that a batch holds, as text.

    Args:
        owner: Name of the reward, for errors.
        key: Entry of the batch.
        batch: One answer per completion, as text or numbers, in a list or a tensor.
        count: Number of completions.

    Raises:
        ArgumentError: The batch has no such entry, another number of answers, or an answer that is ``None``.
    """
    if key not in batch:
        raise ArgumentError(
            f"{owner}.key must name an entry of the batch, got {key!r} and a batch of {', '.join(batch) or 'nothing'}."
        )
    values = batch[key]
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, str) or not isinstance(listed, Sequence) or len(listed) != count:
        got = len(listed) if isinstance(listed, Sequence) and not isinstance(listed, str) else repr(listed)
        raise ArgumentError(f"{owner}.{key} must hold one answer for each of {count} completions, got {got}.")
    for row, answer in enumerate(listed):
        if not isinstance(answer, (str, Real)):
            raise ArgumentError(f"{owner}.{key} must hold texts or numbers, got {answer!r} for completion {row}.")
    return [str(answer) for answer in listed]


def _agreement(given: str, answer: str) -> float:
    longer = max(len(given), len(answer))
    return sum(one == other for one, other in zip(given, answer, strict=False)) / longer
