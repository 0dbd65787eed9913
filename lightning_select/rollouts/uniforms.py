"""Random numbers of a row of attempts, made of the key of that row and the place of the token.

No generator is kept or moved on: what an attempt draws does not depend on the other attempts of its batch, on their
order, or on what was drawn before. So a resumed run, a prompt that is asked again alone, and two ranks that share out
the prompts in another way all draw the same.

References:
    Guy L. Steele Jr., Doug Lea and Christine H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014:
    splitmix64, whose finaliser and increment are used.

Deviations:
    The shifts of the finaliser carry the sign, as those of torch do, which leaves 63 bits; the upper ones are taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.seeding import STEP, mixed
from lightning_select.types import Float, Int
from lightning_select.visits import fitting

__all__ = ["attempt_keys", "uniforms"]


def attempt_keys(
    seed: int, turn: int, rows: Int[Tensor, "prompts"], attempts: int, first: int = 0
) -> Int[Tensor, "keys"]:
    """One key per attempt, those at one prompt next to each other.

    Args:
        seed: Of the run.
        turn: Which round of attempts this is.
        rows: Numbers of the prompts that tell them apart in this round, over all ranks.
        attempts: How many at each prompt.
        first: Number of the first attempt, where some were made before.

    Raises:
        ArgumentError: There is no attempt, or the first one has a negative number.

    Example:
        >>> import torch
        >>> keys = attempt_keys(0, 3, torch.tensor([5, 6]), 4)
        >>> torch.equal(keys[4:], attempt_keys(0, 3, torch.tensor([6]), 4))
        True
    """
    if attempts < 1:
        raise ArgumentError(f"attempt_keys.attempts must be 1 or more, got {attempts}.")
    if first < 0:
        raise ArgumentError(f"attempt_keys.first must be 0 or more, got {first}.")
    start = mixed(torch.tensor(_wrapped(seed), device=rows.device))
    start = mixed(start + _wrapped(turn * STEP))
    prompts = mixed(start + rows.long() * STEP)
    numbers = torch.arange(first, first + attempts, device=rows.device)
    return mixed(prompts.unsqueeze(1) + numbers * STEP).flatten()


def uniforms(keys: Int[Tensor, "rows"], position: int) -> Float[Tensor, "rows"]:
    """A number in [0, 1) for each key at this place: float64, or float32 on a device that has no float64.

    Example:
        >>> import torch
        >>> alone, among = uniforms(torch.tensor([7]), 2), uniforms(torch.tensor([1, 7]), 2)
        >>> bool(alone[0] == among[1])
        True
    """
    bits = mixed(mixed(keys.long()) + _wrapped(position * STEP))
    dtype = fitting(torch.float64, keys.device)
    digits = 53 if dtype == torch.float64 else 24
    return ((bits >> (63 - digits)) & (2**digits - 1)).to(dtype) * 2.0**-digits


def _wrapped(number: int) -> int:
    """The number as 64 bits with a sign hold it."""
    return (number + 2**63) % 2**64 - 2**63
