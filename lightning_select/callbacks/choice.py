"""Checks between score, selector and batch: what each may return, and what happens when it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_select.callbacks.verdicts import Verdicts
from lightning_select.errors import ScoreError, SelectorError, WeightError
from lightning_select.types import Float, Int, Selection

__all__ = ["checked_scores", "checked_selection", "checked_weights", "name_of", "noted_weights"]


def checked_scores(owner: str, scores: Any, rows: int) -> Float[Tensor, "rows"]:
    """Detached float32 scores; what is not finite becomes minus infinity and is chosen last.

    Raises:
        ScoreError: The score returned something else than one floating point number per row.
    """
    if not isinstance(scores, Tensor) or scores.shape != (rows,) or not scores.is_floating_point():
        got = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ScoreError(f"{owner} must return one floating point number for each of {rows} rows, got {got}.")
    lowest = -torch.inf
    return torch.nan_to_num(scores.detach().float(), nan=lowest, posinf=lowest, neginf=lowest)


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

    What only the device knows is replaced by something harmless and noted in ``verdicts``: a position out of range by
    the nearest one, a row whose score is not finite by the row with the best score.

    Raises:
        SelectorError: The selection has a wrong type, number of rows or state.
        WeightError: The weights have a wrong shape or need a gradient.
    """
    index = selection.index if isinstance(selection, Selection) else None
    if not isinstance(index, Tensor) or index.dim() != 1 or index.dtype not in (torch.int64, torch.int32):
        got = type(selection).__name__
        if isinstance(selection, Selection):
            got = _describe(index) if isinstance(index, Tensor) else f"a Selection with a {type(index).__name__}"
        raise SelectorError(f"{owner} must return a Selection whose index holds int64 positions, got {got}.")
    if index.shape[0] != count:
        raise SelectorError(f"{owner} must return exactly {count} rows, got {index.shape[0]}.")
    _check_state(owner, selection.state)
    index = index.to(device=scores.device, dtype=torch.int64)
    verdicts.note("BatchSelection", _enough_scores, scores, index)
    verdicts.note(owner, _inside if with_replacement else _inside_and_once, scores, index)
    index = index.clamp(0, scores.shape[0] - 1)
    usable = scores.index_select(0, index) > -torch.inf
    index, order = torch.where(usable, index, scores.argmax()).sort()
    if selection.weight is None:
        return index, None
    return index, checked_weights(owner, selection.weight, count, verdicts)[order]


def checked_weights(owner: str, weights: Any, rows: int, verdicts: Verdicts) -> Float[Tensor, "rows"]:
    """Detached float32 weights that are safe to use: one where a weight is not finite, zero where it is negative.

    Raises:
        WeightError: The weights have a wrong shape or type, or need a gradient.
    """
    weights = noted_weights(owner, weights, rows, verdicts)
    return torch.nan_to_num(weights, nan=1.0, posinf=1.0, neginf=1.0).clamp(min=0.0)


def noted_weights(owner: str, weights: Any, rows: int, verdicts: Verdicts) -> Float[Tensor, "rows"]:
    """Detached float32 weights as they are; what is wrong with their values is noted in ``verdicts``.

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
    verdicts.note(owner, _proper_weights, weights)
    return weights


def name_of(part: Any) -> str:
    """What messages call a score, a selector or a weighting: a function by its name, an object by its class."""
    return getattr(part, "__name__", type(part).__name__)


def _check_state(owner: str, state: Any) -> None:
    rule = f"{owner} must return a state of tensors by name, got"
    if not isinstance(state, Mapping):
        raise SelectorError(f"{rule} {type(state).__name__}.")
    for name, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(name, str):
            raise SelectorError(f"{rule} {type(value).__name__} as {name!r}.")
        if value.layout != torch.strided or value.is_nested:  # no checkpoint could bring it back
            raise SelectorError(f"{rule} a {'nested' if value.is_nested else value.layout} tensor as {name!r}.")


def _describe(tensor: Tensor) -> str:
    gradient = " that needs a gradient" if tensor.requires_grad else ""
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}{gradient}"


def _enough_scores(
    scores: Float[Tensor, "steps rows"], index: Int[Tensor, "steps kept"]
) -> Mapping[str, tuple[Tensor, Tensor]]:
    finite = scores.isfinite().sum(dim=1)
    return {"finite_scores": (finite < min(index.shape[1], scores.shape[1]), finite)}


def _inside(scores: Float[Tensor, "steps rows"], index: Int[Tensor, "steps kept"]) -> dict[str, tuple[Tensor, Tensor]]:
    lowest, highest = index.aminmax(dim=1)
    outside = (lowest < 0) | (highest >= scores.shape[1])
    return {"index_range": (outside, torch.where(lowest < 0, lowest, highest))}


def _inside_and_once(
    scores: Float[Tensor, "steps rows"], index: Int[Tensor, "steps kept"]
) -> dict[str, tuple[Tensor, Tensor]]:
    index = index.sort(dim=1).values
    twice = torch.where(index[:, 1:] == index[:, :-1], index[:, 1:], -1)
    found = torch.cat([twice, index.new_full((len(index), 1), -1)], dim=1).amax(dim=1)
    return _inside(scores, index) | {"index_twice": (found >= 0, found)}


def _proper_weights(weights: Float[Tensor, "steps rows"]) -> Mapping[str, tuple[Tensor, Tensor]]:
    strange, lowest, total = (~weights.isfinite()).sum(dim=1), weights.amin(dim=1), weights.sum(dim=1)
    return {
        "weight_finite": (strange > 0, strange),
        "weight_negative": ((strange == 0) & (lowest < 0), lowest),
        "weight_sum": ((strange == 0) & (lowest >= 0) & (total <= 0), total),
    }
