"""What a reward model says about pairs, in training and as a reviewer that leaves no trace."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_select.errors import BatchFormatError
from lightning_select.signals.traceless.casts import fresh_casts
from lightning_select.signals.traceless.generators import Generators
from lightning_select.types import Batch, Float

__all__ = ["Reviewing", "margins_of", "scores_of"]


def scores_of(model: nn.Module, completions: Any) -> Float[Tensor, "rows"]:
    """One score per completion, at least in float32.

    Args:
        model: Called with a tensor as it is, and with the entries of a mapping (token ids, a mask) by their names. It
            returns (rows,) or (rows, 1), or an object with such ``logits``.
        completions: One a row.

    Raises:
        BatchFormatError: It takes other entries, or returns something else.
    """
    if isinstance(completions, Mapping) and not _takes(model, completions):
        raise BatchFormatError(
            f"{type(model).__name__}.forward must take the entries of a batch, got {', '.join(completions)}. Texts "
            "need a model of tokens, as model/models=reward_encoder or reward_classifier."
        )
    found = model(**completions) if isinstance(completions, Mapping) else model(completions)
    scores = getattr(found, "logits", found)
    if isinstance(scores, Tensor) and scores.dim() == 2 and scores.shape[1] == 1:
        scores = scores.squeeze(1)
    if not isinstance(scores, Tensor) or scores.dim() != 1 or not scores.is_floating_point():
        got = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise BatchFormatError(f"{type(model).__name__} must return one score per row, got {got}.")
    return scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores


def _takes(model: nn.Module, completions: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(model.forward).bind(**completions)
    except TypeError:
        return False
    return True


def margins_of(model: nn.Module, pairs: Batch) -> Float[Tensor, "rows"]:
    """Score of the chosen completion less that of the rejected one, pair by pair, at least in float32.

    Args:
        model: Scores completions, as `scores_of` says.
        pairs: A mapping with ``chosen`` and ``rejected``, of the same form.

    Raises:
        BatchFormatError: There are no such entries, or not one score for each.
    """
    if not isinstance(pairs, Mapping) or not {"chosen", "rejected"} <= pairs.keys():
        got = ", ".join(map(str, pairs)) if isinstance(pairs, Mapping) else type(pairs).__name__
        raise BatchFormatError(f"A batch of pairs must be a mapping with chosen and rejected, got {got or 'none'}.")
    chosen, rejected = (scores_of(model, pairs[side]) for side in ("chosen", "rejected"))
    if chosen.shape != rejected.shape:
        raise BatchFormatError(
            f"Each chosen completion must have one rejected, got {len(chosen)} chosen and {len(rejected)} rejected."
        )
    return chosen - rejected


class Reviewing:
    """Looks at pairs in evaluation mode: no gradient, no dropout, and modes and generators as before afterwards."""

    def __init__(self) -> None:
        self._generators = Generators()

    def __call__(self, model: nn.Module, pairs: Batch) -> Float[Tensor, "rows"]:
        """Margins of the pairs."""
        device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
        with torch.no_grad(), fresh_casts(), _evaluating(model), self._generators.kept(device):
            return margins_of(model, pairs)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every part in evaluation mode, and then in its own again: some may have been frozen on purpose."""
    parts = [part for part in model.modules() if part.training]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part in parts:
            part.training = True
