"""Pass at k: the chance that at least one of k attempts is right, estimated from n of them.

References:
    Chen et al., "Evaluating Large Language Models Trained on Code", 2021, arXiv:2107.03374, equation 1:
    ``1 - C(n - c, k) / C(n, k)`` for ``c`` right ones among ``n``; unbiased, as ``1 - (1 - c / n)^k`` is not.

Deviations:
    The quotient is the product of ``(n - c - j) / (n - j)`` over ``j < k``, where the paper's code has ``c``
    factors: no number grows large, and all prompts are computed at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.looking import may_look
from lightning_select.samplers.checks import whole
from lightning_select.types import Float, Num
from lightning_select.visits import fitting

__all__ = ["pass_at_k"]


def pass_at_k(
    right: Num[Tensor, "*prompts"], attempts: int | Num[Tensor, "*prompts"], k: int
) -> Float[Tensor, "*prompts"]:
    """The estimate for each prompt.

    On a device, where looking would mean to wait, prompts whose numbers make no sense are NaN instead of an error.

    Args:
        right: How many attempts at each prompt are right.
        attempts: How many attempts there are, at each prompt or at all of them.
        k: How many attempts one would have.

    Raises:
        ArgumentError: ``k`` is not in [1, attempts], or more attempts are right than there are.

    Example:
        >>> pass_at_k(torch.tensor([0, 1, 4]), attempts=4, k=2)
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    whole("pass_at_k", "k", k, least=1)
    if not isinstance(attempts, Tensor) and whole("pass_at_k", "attempts", attempts, least=1) < k:
        raise ArgumentError(f"pass_at_k.k must be at most the number of attempts ({attempts}), got {k}.")
    dtype = fitting(torch.float64, right.device)
    hits = right.to(dtype)
    tries = attempts.to(dtype) if isinstance(attempts, Tensor) else torch.full_like(hits, float(attempts))
    if tries.shape != hits.shape:
        got = f"{tuple(hits.shape)} and {tuple(tries.shape)}"
        raise ArgumentError(f"pass_at_k.right and attempts must have the same shape, got {got}.")
    _check(hits, tries, k)
    taken = torch.arange(k, dtype=dtype, device=hits.device)
    misses, left = (tries - hits).unsqueeze(-1) - taken, tries.unsqueeze(-1) - taken
    # Where too few are wrong, one factor is zero.
    none_right = (misses / left).prod(dim=-1)
    return torch.where((tries >= k) & (hits >= 0) & (hits <= tries), 1.0 - none_right, torch.nan)


def _check(hits: Float[Tensor, "*prompts"], tries: Float[Tensor, "*prompts"], k: int) -> None:
    if not may_look(hits.device):
        return
    if bool((tries < k).any()):
        raise ArgumentError(f"pass_at_k.k must be at most the number of attempts ({float(tries.min()):g}), got {k}.")
    if not bool(((hits >= 0) & (hits <= tries)).all()):
        got = f"from {float(hits.min()):g} to {float(hits.max()):g}"
        raise ArgumentError(f"pass_at_k.right must be in [0, attempts], got numbers {got}.")
