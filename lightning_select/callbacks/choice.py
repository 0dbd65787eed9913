"""Checks between score, selector and batch: what each may return, and what happens when it does not."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from lightning_select.callbacks.verdicts import Verdicts
from lightning_select.errors import ScoreError, SelectorError, WeightError
from lightning_select.types import Float, Int, Selection

__all__ = ["checked_scores", "checked_selection", "checked_weights", "generator_at"]


def checked_scores(owner: str, scores: Any, rows: int) -> Float[Tensor, "rows"]:
    """Detached float32 scores; what is not finite becomes minus infinity and is chosen last.

    Raises:
        ScoreError: The score returned something else than one floating point number per row.
    """
    if not isinstance(scores, Tensor) or scores.shape != (rows,) or not scores.is_floating_point():
        got = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ScoreError(f"{owner} must return one floating point number for each of {rows} rows, got {got}.")
    scores = scores.detach().float()
    return torch.where(scores.isfinite(), scores, -torch.inf)


def checked_selection(
    owner: str,
    selection: Any,
    scores: Float[Tensor, "rows"],
    count: int,
    verdicts: Verdicts,
    *,
    with_replacement: bool,
) -> tuple[Int[Tensor, "kept"], Float[Tensor, "kept"] | None]:
    """Positions and weights that are safe to use, in the order of the batch.

    What only the device knows (a position out of range, a row twice, too few finite scores) is replaced by something
    harmless and noted in ``verdicts``.

    Raises:
        SelectorError: The selection has a wrong type or number of rows.
        WeightError: The weights have a wrong shape or need a gradient.
    """
    index = selection.index if isinstance(selection, Selection) else None
    if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype not in (torch.int64, torch.int32):
        got = type(selection).__name__ if index is None else _describe(index)
        raise SelectorError(f"{owner} must return a Selection whose index holds int64 positions, got {got}.")
    if index.shape[0] != count:
        raise SelectorError(f"{owner} must return exactly {count} rows, got {index.shape[0]}.")
    rows, finite = scores.shape[0], scores.isfinite()
    index = index.to(device=scores.device, dtype=torch.int64)
    inside = (index >= 0) & (index < rows)
    outside = torch.where(inside, 0, index)
    outcomes = {
        "index_range": (~inside.all(), torch.where(outside.amin() < 0, outside.amin(), outside.amax())),
    }
    verdicts.note("BatchSelection", {"finite_scores": (finite.sum() < min(count, rows), finite.sum())})
    index = index.clamp(0, rows - 1)
    fill = torch.argsort(finite.to(torch.uint8), descending=True, stable=True)
    turn = torch.arange(count, device=index.device) % finite.sum().clamp(min=1)
    index, order = torch.where(finite[index], index, fill[turn]).sort(stable=True)
    if not with_replacement:
        twice = (index[1:] == index[:-1]) & finite[index[1:]] & (finite.sum() >= count)
        found = torch.cat([torch.where(twice, index[1:], -1), index.new_tensor([-1])]).amax()
        outcomes["index_twice"] = (found >= 0, found)
    verdicts.note(owner, outcomes)
    weights = selection.weight
    if weights is None:
        return index, None
    return index, checked_weights(owner, weights, count, verdicts)[order]


def checked_weights(owner: str, weights: Any, rows: int, verdicts: Verdicts) -> Float[Tensor, "rows"]:
    """Detached float32 weights; all one where the weights break a rule, which is noted.

    Raises:
        WeightError: The weights have a wrong shape or type, or need a gradient.
    """
    if not isinstance(weights, Tensor) or weights.shape != (rows,) or not weights.is_floating_point():
        got = _describe(weights) if isinstance(weights, Tensor) else type(weights).__name__
        raise WeightError(f"{owner} must return one floating point weight for each of {rows} rows, got {got}.")
    if weights.requires_grad:
        raise WeightError(
            f"{owner} must return weights that need no gradient, got {_describe(weights)}. Detach the losses."
        )
    weights = weights.float()
    strange, lowest, total = (~weights.isfinite()).sum(), weights.min(), weights.sum()
    broken = (strange > 0, (strange == 0) & (lowest < 0), (strange == 0) & (lowest >= 0) & (total <= 0))
    verdicts.note(
        owner,
        {
            "weight_finite": (broken[0], strange),
            "weight_negative": (broken[1], lowest),
            "weight_sum": (broken[2], total),
        },
    )
    return torch.where(broken[0] | broken[1] | broken[2], 1.0, weights)


def generator_at(device: torch.device, *place: int) -> torch.Generator:
    """Randomness as a function of a place (seed, step, rank, ...): a resumed run draws what the first one drew."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def _describe(tensor: Tensor) -> str:
    gradient = " that needs a gradient" if tensor.requires_grad else ""
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}{gradient}"
