"""Ask a reward function for one number per completion, and survive it failing for some of them."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lightning_select.compat import rank_zero_warn
from lightning_select.errors import RewardError
from lightning_select.types import Float

__all__ = ["Reward", "Scorer", "repeated"]

_PATIENCE = 10
"""Calls in a row in which every completion fails, after which the function is taken to fail always."""

Reward = Callable[[Sequence[str], Sequence[str], Mapping[str, Any]], Any]
"""``(prompts, completions, batch) -> one number per completion``, all three repeated for the attempts at a prompt.

A number that is NaN or None stands for a completion that cannot be scored: it is no failure, it does not count.
"""


class Scorer:
    """Calls a reward function and checks what it returns.

    If it raises, it is called again for one completion at a time: those for which it raises then cannot be scored and
    do not count, and the first traceback is shown once. A function that looks at several completions together, to rank
    them, should therefore not raise.

    Args:
        reward: The function.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._name = str(getattr(reward, "__name__", type(reward).__name__))
        self._said = self._scored = False
        self._failures = 0

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], batch: Mapping[str, Any]
    ) -> Float[Tensor, "rows"]:
        """The rewards in float32; NaN where there is none.

        Raises:
            RewardError: The function fails for every completion, or returned something else than a number for each.
        """
        try:
            returned = self._reward(prompts, completions, batch)
        except Exception as error:
            return self._one_by_one(prompts, completions, batch, error)
        self._scored, self._failures = True, 0
        return self._checked(returned, len(completions))

    def _one_by_one(
        self, prompts: Sequence[str], completions: Sequence[str], batch: Mapping[str, Any], error: Exception
    ) -> Float[Tensor, "rows"]:
        rewards, failed = [], 0
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            one = {
                key: value[row : row + 1] if _has_rows(value, len(prompts)) else value for key, value in batch.items()
            }
            try:
                rewards.append(self._checked(self._reward([prompt], [completion], one), 1))
            except RewardError:
                raise
            except Exception as reason:
                failed, error = failed + 1, reason if not failed else error
                rewards.append(torch.full((1,), math.nan))
        whole = failed == len(rewards)
        self._failures = self._failures + 1 if whole else 0
        # One prompt alone may be one that cannot be scored; several, when nothing ever was, are a function that fails.
        if whole and (self._failures >= _PATIENCE or (not self._scored and len(set(prompts)) > 1)):
            raise RewardError(
                f"{self._name} must return one number per completion, got {type(error).__name__} for each of "
                f"{failed} completions: {error}"
            ) from error
        self._scored = self._scored or not whole
        self._tell(failed, len(rewards), error)
        return torch.cat(rewards)

    def _tell(self, failed: int, rows: int, error: Exception) -> None:
        if self._said:
            return
        self._said = True
        what = (
            f"failed for {failed} of {rows} completions. They count as not attempted"
            if failed
            else f"failed for {rows} completions together and for none alone. They are scored one by one"
        )
        shown = "".join(traceback.format_exception(error))
        rank_zero_warn(f"{self._name} {what}, and so it will be without a further word. The first traceback:\n{shown}")

    def _checked(self, returned: Any, rows: int) -> Float[Tensor, "rows"]:
        values = returned.tolist() if hasattr(returned, "tolist") else returned
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
            raise RewardError(
                f"{self._name} must return one number for each of {rows} completions, got {_short(returned)}."
            )
        if len(values) != rows:
            raise RewardError(f"{self._name} must return one number for each of {rows} completions, got {len(values)}.")
        numbers = [math.nan if value is None else _number(value) for value in values]
        wrong = next((value for value, number in zip(values, numbers, strict=True) if number is None), None)
        if wrong is not None:
            raise RewardError(
                f"{self._name} must return finite numbers (NaN or None where there is none), got {_short(wrong)}."
            )
        found = torch.tensor(numbers, dtype=torch.float32)
        huge = next((value for value, kept in zip(values, found.tolist(), strict=True) if math.isinf(kept)), None)
        if huge is not None:
            raise RewardError(f"{self._name} must return numbers that float32 holds, got {huge}.")
        return found


def repeated(batch: Mapping[str, Any], rows: int, index: Sequence[int]) -> dict[str, Any]:
    """The entries of a batch with ``rows`` rows, one for each of ``index``; entries without rows stay as they are."""
    found: dict[str, Any] = {}
    for key, value in batch.items():
        if not _has_rows(value, rows):
            found[key] = value
        elif isinstance(value, Tensor):
            found[key] = value.index_select(0, torch.as_tensor(index, dtype=torch.int64, device=value.device))
        else:
            found[key] = [value[row] for row in index]
    return found


def _has_rows(value: Any, rows: int) -> bool:
    if isinstance(value, Tensor):
        return value.dim() > 0 and value.shape[0] == rows
    return isinstance(value, (list, tuple)) and len(value) == rows


def _number(value: Any) -> float | None:
    """The value as a number, or ``None`` where it is none or infinite."""
    if hasattr(value, "item") and not isinstance(value, Real):
        value = value.item()
    if not isinstance(value, Real):  # a bool is a number, right or wrong
        return None
    number = float(value)
    return None if math.isinf(number) else number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
